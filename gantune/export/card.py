"""The model card: what a generator is, how it was measured, what it is not, in the form of the Hugging Face hub.

Every section says what the run's record says; what was not measured is said to be so.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gantune import __version__
from gantune.config import Scalar
from gantune.export import snippets
from gantune.export.generator import Generator
from gantune.objectives import BETTER
from gantune.plugins import shown
from gantune.provenance import versions
from gantune.winner import Winner, better, differences
from gantune.writing import dump

MEANS = {
    "fid": "squared Fréchet distance of features from the real data's",
    "fid_inf": "the same, extrapolated to endless samples",
    "kid": "kernel distance of features from the real data's, unbiased",
    "precision": "share of samples that lie among real ones",
    "recall": "share of real examples that lie among samples: variety",
    "density": "how densely real examples surround samples; 1 is as the data do",
    "coverage": "share of real examples that have a sample beside them",
    "diversity": "spread of features, relative to the real data's",
    "pixel_diversity": "spread of pixels, relative to the real data's",
    "rank": "effective number of dimensions of the features, relative to the real data's",
    "memorisation": "how near samples lie to training examples; 1 is as near as unseen real ones, low is copying",
    "modes": "share of the classes that samples reach",
    "inception_score": "how sure and how varied a classifier's view of samples is",
    "synthetic_accuracy": "accuracy on real data of a classifier trained on samples alone",
    "seconds_per_image": "time to draw one sample, on the machine that trained it",
    "generator_parameters": "weights of the generator",
}
NOWHERE = "Not recorded: the generator was exported from a checkpoint alone, outside of its run."


def model_card(
    generator: Generator,
    winner: Winner | None,
    files: Sequence[str],
    differing: Mapping[str, float],
    left_out: Mapping[str, str],
) -> str:
    """The card's text. winner: what the run tells; without it the card says that it is not known."""
    name = winner.run.name if winner else _data(generator)
    sections = {
        "What it draws": _drawn(generator),
        "Data": _about_data(generator),
        "Score": _score(generator, winner),
        "How it was measured": _protocol(generator, winner),
        "Other metrics": _metrics(generator, winner),
        "Configuration": _configuration(generator, winner),
        "Cost": _cost(winner),
        "Limits": _limits(generator, winner),
        "Files, and how to use them": _files(generator, files, differing, left_out),
        "How to make it again": _again(generator, winner),
        "Versions": _versions(winner),
    }
    parts = [f"---\n{dump(_head(generator, winner, name, files))}---", f"# {name}: a generator of {_kind(generator)}"]
    parts += [f"## {title}\n\n{chr(10).join(lines)}" for title, lines in sections.items()]
    return "\n\n".join(parts) + "\n"


def _head(generator: Generator, winner: Winner | None, name: str, files: Sequence[str]) -> dict[str, Any]:
    data = re.sub(r"[^\w.-]+", "-", _data(generator)).strip("-.") or "data"
    task = "unconditional-image-generation" if _pictures(generator) else "tabular-generation"
    tags = ["gan", "gantune", "pytorch", *(["onnx"] if "generator.onnx" in files else []), _architecture(generator)]
    if generator.class_counts:
        tags.append("class-conditional")
    told = [{"name": key, "type": key, "value": value} for key, value in _told(generator, winner).items()]
    score = {"name": _score_name(generator, winner), "type": _score_name(generator, winner), "value": _best(generator)}
    return {
        "license": "unknown",
        "library_name": "gantune",
        **({"pipeline_tag": task} if _pictures(generator) else {}),
        "tags": tags,
        "datasets": [data],
        "metrics": list(dict.fromkeys([score["name"], *(item["name"] for item in told)])),
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": task, "name": _kind(generator)},
                        "dataset": {"type": data, "name": _data(generator)},
                        "metrics": [score, *(item for item in told if item["name"] != score["name"])],
                    }
                ],
            }
        ],
    }


def _drawn(generator: Generator) -> list[str]:
    dims = generator.dims
    if _pictures(generator):
        what = f"Pictures of {dims[1]} x {dims[2]} pixels, {'grey' if dims[0] == 1 else 'RGB'}"
        shown_by = "64 of them, from latents that nobody picked:"
    else:
        what = f"Points of {dims[0]} coordinates"
        shown_by = "5,000 of them, the first two coordinates, the darker the denser:"
    classes = f", of {len(generator.class_counts)} classes that can be asked for" if generator.class_counts else ""
    lines = [f"{what}{classes}, from {generator.z_dim} normal numbers each. {shown_by}", "", "![samples](samples.png)"]
    if generator.class_names:
        lines += ["", f"Classes, in order: {', '.join(generator.class_names)}."]
    return lines


def _about_data(generator: Generator) -> list[str]:
    data = generator.meta["config"]["data"]
    counts = generator.class_counts
    lines = [
        f"`{_data(generator)}`, of which a tenth (at most 2,000) was held out: the generator never learned from it."
    ]
    if counts:
        lines += [f"{sum(counts):,} examples with labels; by class: {', '.join(f'{count:,}' for count in counts)}."]
    else:
        lines += ["The generator was not told any labels."]
    if data.get("size") and _pictures(generator):
        lines += [f"Pictures were cropped to their middle square and resized to {data['size']} pixels."]
    return [*lines, "Its license, its origin and the people in it are not known to gantune: say so here."]


def _score(generator: Generator, winner: Winner | None) -> list[str]:
    name, meta = _score_name(generator, winner), generator.meta
    lines = [
        f"`{name}` **{_number(_best(generator))}** (lower is better) after {meta['samples_seen']:,} real samples seen."
    ]
    if winner is None:
        return [*lines, NOWHERE]
    final = winner.source.final_score
    counts = meta["config"]["objective"]["samples"]
    if final is not None:
        lines += [f"The same weights, from {counts['final']:,} samples: **{_number(final)}**."]
    else:
        lines += [f"From the final {counts['final']:,} samples: not measured, for it was not trained to its end."]
    if winner.baseline is not None and winner.baseline.number != winner.trial.number:
        own = winner.baseline.best_score
        lines += [f"The baseline (trial #0): {'no score' if own is None else _number(own)}."]
    elif winner.baseline is not None:
        lines += ["It is the baseline itself: no other trial was better."]
    else:
        lines += ["There was no baseline to compare with."]
    return lines + _selection(winner)


def _selection(winner: Winner) -> list[str]:
    """How lucky the score may be."""
    count = len(winner.trials)
    if winner.chosen:
        fate = f"{winner.trial.state}: {winner.trial.cause}" if winner.trial.cause else winner.trial.state
        chosen = f"Trial #{winner.trial.number} ({fate}) was chosen by its number, of {count}; it need not be the best."
    elif winner.by is not None:
        way = better(winner.by)
        chosen = (
            f"It is the best of {count} trials by `{winner.by}` ({way} is better), and need not be so by its score."
        )
    else:
        chosen = f"It is the best of {count} trials."
    for standing in winner.standings:
        if standing.number == winner.trial.number:
            runs = len(standing.scores) + standing.collapsed
            tied = [f"#{other.number}" for other in winner.standings if other.tied and other is not standing]
            tie = f", a tie with {' and '.join(tied)}" if standing.tied and tied else ""
            died = f", {standing.collapsed} of them without a score" if standing.collapsed else ""
            return [
                f"{chosen} Trained again under fresh seeds: mean {_number(standing.mean)}, deviation "
                f"{_number(standing.deviation)} over {runs} runs{died}; probability of being the best of the finalists "
                f"{standing.probability:.2f}{tie}. The weights are those of the best of these runs."
            ]
    return [
        f"{chosen} The lowest score of many is a lucky one: it was not confirmed under fresh seeds, so expect a worse "
        "one of the same configuration (`confirm: {top: 3, seeds: 3}` would tell)."
    ]


def _protocol(generator: Generator, winner: Winner | None) -> list[str]:
    config, meta = generator.meta["config"], generator.meta
    objective = config["objective"]
    constraints = [str(item) for item in objective.get("constraints", [])]
    half = config["space"]["ema_halflife_samples"]
    features = objective.get("features", "auto")
    kind = features if isinstance(features, str) else next(iter(features), "auto")
    sight = "a small classifier that was trained on this data set" if kind == "auto" else f"`{kind}`"
    lines = [
        f"- Reference: `{meta.get('reference', 'not recorded')}`; scores compare under the same reference only.",
        f"- Features: those of {sight}; the metric's name ends in theirs.",
        f"- Samples: {objective['samples']['report']:,} at each of {objective['reports']} reports, from fixed latents, "
        f"and {objective['samples']['final']:,} at the end.",
        f"- Weights: averaged over training with a half-life of {half:,} real samples."
        if half
        else "- Weights: those of the last step before the report; they were not averaged.",
        "- The best report wins, not the last: score and weights are of one moment.",
        f"- Constraints: {', '.join(f'`{item}`' for item in constraints) if constraints else 'none'}"
        f"{'; a report that missed one could not win.' if constraints else '.'}",
    ]
    if winner is None:
        return [*lines, f"- Search: {NOWHERE[0].lower()}{NOWHERE[1:]}"]
    states = [trial.state for trial in winner.trials]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    return [*lines, f"- Search: {len(states)} trials ({told})."]


def _metrics(generator: Generator, winner: Winner | None) -> list[str]:
    found = _told(generator, winner)
    lines = ["| metric | value | better | what it tells |", "|---|---|---|---|"]
    for name, value in found.items():
        plain = _plain(name)
        lines.append(f"| `{name}` | {_number(value)} | {better(name)} | {MEANS[plain]}{_moment(name)} |")
    known = {_plain(name) for name in [*found, _score_name(generator, winner)]}
    missing = [name for name in BETTER if name not in known]
    if not found:
        lines = ["None was measured."]
    return [*lines, "", f"Not measured: {', '.join(f'`{name}`' for name in missing)}."] if missing else lines


def _configuration(generator: Generator, winner: Winner | None) -> list[str]:
    parameters = winner.source.parameters if winner else _flat(generator.meta["config"]["space"])
    before: Mapping[str, Scalar] = winner.baseline.parameters if winner and winner.baseline else {}
    changed = differences(before, parameters)
    lines = ["| parameter | value | baseline |", "|---|---|---|"]
    for name, value in parameters.items():
        other = f"**{shown(changed[name][0])}**" if name in changed else "the same" if name in before else "not there"
        lines.append(f"| `{name}` | {shown(value)} | {other if before else 'no baseline'} |")
    count = f"{len(changed)} differ from the baseline's. " if before else ""
    return [f"{count}`config.yaml` holds all of it, with data, measurement and seed.", "", *lines]


def _cost(winner: Winner | None) -> list[str]:
    if winner is None:
        return [NOWHERE]
    cost, own = winner.cost, winner.source
    lines = [
        f"The search: {cost.trials} runs, {cost}.",
        f"This generator: {own.samples_seen:,} real samples, {own.seconds:,.0f} s of training.",
    ]
    lines += ["GPU hours: none, it was trained on CPUs."] if cost.gpu_hours is None else []
    return lines + (["In money: not known, no price per hour was given."] if cost.cost is None else [])


def _limits(generator: Generator, winner: Winner | None) -> list[str]:
    copying = _told(generator, winner).get("memorisation")
    form = (
        f"pictures of {generator.dims[1]} pixels: it has no other size"
        if _pictures(generator)
        else f"points of {generator.dims[0]} coordinates, scaled as its data were"
    )
    return [
        f"- It knows `{_data(generator)}` and nothing else, and gives {form}.",
        "- It repeats what its data over- and under-represent; rare kinds may be missing (see recall and coverage).",
        "- Copies: not measured; samples may be near copies of training examples."
        if copying is None
        else f"- Copies: memorisation {_number(copying)}, where 1 is as near to training examples as unseen real ones "
        "are, and low is copying. It is a mean over some samples, so single copies are possible.",
        "- It is no guarantee of privacy: that was neither trained for nor tested.",
        "- A score tells of one data set, in the sight of one network. It does not say that a person is pleased.",
        "- Uses beyond drawing more of the same were not tested.",
    ]


def _files(
    generator: Generator, files: Sequence[str], differing: Mapping[str, float], left_out: Mapping[str, str]
) -> list[str]:
    lines = ["| file | holds |", "|---|---|"]
    for name in files:
        seen = f"; differs from the network's output by at most {differing[name]:.1g}" if name in differing else ""
        lines.append(f"| `{name}` | {snippets.HOLDS[name]}{seen} |")
    lines += [f"\n{reason[0].upper()}{reason[1:]}." for reason in left_out.values()]
    labelled, pictures = bool(generator.class_counts), _pictures(generator)
    lines += ["", "Inputs: `latents`, float32 [N, " + f"{generator.z_dim}], normal numbers"]
    lines[-1] += f"; `labels`, int64 [N], from 0 to {len(generator.class_counts) - 1}." if labelled else "."
    shape = ", ".join(map(str, generator.dims))
    lines += [f"Output: `samples`, float32 [N, {shape}], {'from -1 to 1.' if pictures else 'scaled as the data were.'}"]
    for name, (language, text) in snippets.uses(generator.z_dim, labelled=labelled, pictures=pictures).items():
        if name in files:
            lines += ["", f"`{name}`:", "", f"```{language}", text, "```"]
    return lines


def _again(generator: Generator, winner: Winner | None) -> list[str]:
    seed = generator.meta["config"]["search"]["seed"]
    lines = [f"The trial's seed is {seed}, and stands in `config.yaml`. From this folder and the data:"]
    lines += ["", "```sh", "gantune train config.yaml --out again", "```", ""]
    if winner is None:
        return [*lines, NOWHERE]
    if winner.replay is None:
        return [*lines, "It took over another trial's weights, so training from the beginning gives another generator."]
    return [
        *lines,
        "From the run, which compares every number with the recorded one:",
        "",
        "```sh",
        winner.replay,
        "```",
        "",
        "Numbers are the same on one kind of machine and device, with the same versions and count of threads.",
    ]


def _versions(winner: Winner | None) -> list[str]:
    if winner is None:
        return [
            f"Exported with gantune {__version__}, {', '.join(f'{name} {now}' for name, now in versions().items())}."
        ]
    session = winner.manifest["sessions"][-1]
    packages = ", ".join(f"{name} {version}" for name, version in session["packages"].items())
    machine = session["machine"]
    return [
        f"Searched with gantune {session['gantune']}, {packages}, Python {machine['python']} on {machine['system']}.",
        f"Exported with gantune {__version__}.",
    ]


# What a checkpoint says of itself


def _pictures(generator: Generator) -> bool:
    return len(generator.dims) == 3


def _kind(generator: Generator) -> str:
    return "pictures" if _pictures(generator) else "points"


def _architecture(generator: Generator) -> str:
    name: str = next(iter(generator.meta["config"]["space"]["architecture"]))
    return name.rpartition(":")[2]


def _data(generator: Generator) -> str:
    """The data's name, without where they lie on somebody's machine."""
    return Path(generator.meta["config"]["data"]["dataset"]).name or "data"


def _score_name(generator: Generator, winner: Winner | None) -> str:
    if winner is not None:
        return winner.run.score_name
    metric = generator.meta["config"]["objective"]["metric"]
    return str(metric if isinstance(metric, str) else metric[0])


def _best(generator: Generator) -> float:
    return float(generator.meta["score"])


def _told(generator: Generator, winner: Winner | None) -> dict[str, float]:
    """The metrics of these weights of which it is known which way is better, at the moment of the best score."""
    found = dict(generator.meta["metrics"])
    if winner is not None:
        found |= {name: value for name, value in winner.source.metrics.items() if name.startswith("final_")}
    return {
        name: float(value)
        for name, value in found.items()
        if name != "final_score" and better(name) is not None and math.isfinite(value)
    }


def _plain(name: str) -> str:
    """A metric's own name: `fid` of `final_fid_classifier`."""
    name = name.removeprefix("final_")
    return name if name in MEANS else next(plain for plain in ("fid_inf", "fid", "kid") if name.startswith(plain))


def _moment(name: str) -> str:
    return "; from the final count of samples" if name.startswith("final_") else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _flat(space: Mapping[str, Any]) -> dict[str, Scalar]:
    """Parameters by full path, from a configuration's document."""
    found: dict[str, Scalar] = {}
    for kind, value in space.items():
        if not isinstance(value, dict):
            found[kind] = value
            continue
        ((name, options),) = value.items()
        found[kind] = name
        found |= {f"{kind}.{name}.{key}": option for key, option in options.items()}
    return found
