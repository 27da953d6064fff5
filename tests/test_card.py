"""The model card: every section says something, and what it says is the run's own."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from made_runs import SPACE, make_run
from ruamel.yaml import YAML
from test_export import COLOUR, CONFIG, MLP, PLANE, told_classes, write_best
from test_export import GREY as SMALL

from gantune.export import export, folder, load_generator
from gantune.export.card import MEANS, model_card
from gantune.export.programs import Program
from gantune.objectives import BETTER
from gantune.winner import find_winner

FILES = (
    "generator.safetensors",
    "config.yaml",
    "generator.pt2",
    "generator.onnx",
    "sample.py",
    "samples.png",
    "README.md",
)
LABELLED = {**SPACE, "space": {**SPACE["space"], "architecture": {"mlp": {"conditional": True}}}, "baseline": None}
POINTS = {
    **SPACE,
    "data": {"dataset": "gaussians8"},
    "space": {**SPACE["space"], "architecture": {"mlp": {"depth": "int 2..4"}}},
    "baseline": None,
}
MEASURED = {"fid_classifier": 9.0, "kid_classifier": 0.01, "memorisation": 0.93, "generator_parameters": 123_456.0}
RUNS = {
    "baseline": {},
    "no baseline": {"space": {**SPACE, "baseline": None}},
    "repeats": {"repeats": 3},
    "all measured": {"metrics": lambda number: MEASURED},
    "labels": {"space": LABELLED, "shape": replace(SMALL, classes=3), "class_counts": (30, 20, 10)},
    "points": {"space": POINTS, "shape": PLANE},
}


def card_of(folder, **about):
    run = make_run(folder, trials=5, running=0, **about)
    winner = find_winner(run)
    return model_card(load_generator(winner.checkpoint), winner, FILES, {"generator.onnx": 3e-7}, {}), winner


def head_of(text):
    return YAML(typ="safe").load(text.split("---\n")[1])


def sections_of(text):
    parts = re.split(r"^## (.+)$", text, flags=re.M)[1:]
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def check_nothing_is_empty(text):
    def full(value):
        if isinstance(value, dict):
            return bool(value) and all(map(full, value.values()))
        if isinstance(value, list):
            return bool(value) and all(map(full, value))
        return value is not None and str(value).strip() not in ("", "nan", "None")

    assert full(head_of(text))
    sections = sections_of(text)
    assert len(sections) == 11
    for title, body in sections.items():
        prose = re.sub(r"```.*?```", "code", body, flags=re.S)
        assert len(prose) > 15, title
        assert not re.search(r"\b(None|nan|null|TODO)\b|``", prose), title
        assert not re.search(r":\W*\Z", prose), title  # nothing follows what was announced
        for row in re.findall(r"^\|(.+)\|$", body, re.M):
            assert all(cell.strip() for cell in row.split("|")), row


@pytest.mark.parametrize("name", RUNS)
def test_no_field_and_no_section_of_a_card_is_empty(tmp_path, name):
    check_nothing_is_empty(card_of(tmp_path, **RUNS[name])[0])


def test_a_card_from_a_checkpoint_alone_says_what_is_not_known(tmp_path):
    path, _ = write_best(tmp_path / "best.safetensors")
    text = model_card(load_generator(path), None, FILES, {}, {})
    check_nothing_is_empty(text)
    assert sections_of(text)["Cost"] == (
        "Not recorded: the generator was exported from a checkpoint alone, outside of its run."
    )


def test_a_card_tells_of_luck_unless_the_score_was_confirmed(tmp_path):
    score = sections_of(card_of(tmp_path / "plain")[0])["Score"]
    assert "the best of 5 trials. The lowest score of many is a lucky one" in score
    text, winner = card_of(tmp_path / "sure", repeats=3)
    standing = winner.standings[0]
    score = sections_of(text)["Score"]
    assert "lucky" not in score
    assert f"mean {standing.mean:.4g}, deviation {standing.deviation:.4g} over 3 runs" in score
    assert f"probability of being the best of the finalists {standing.probability:.2f}" in score


def test_a_card_tells_by_what_its_trial_was_chosen(tmp_path):
    run = make_run(tmp_path, trials=5, running=0, metrics=lambda number: {"rank": float(number)})
    for asked, told in (
        ({"by": "rank"}, "best of 5 trials by `rank` (higher is better), and need not be so by its score"),
        ({"number": 0}, "Trial #0 (finished) was chosen by its number, of 5"),
    ):
        winner = find_winner(run, **asked)
        generator = load_generator(find_winner(run).checkpoint)
        assert told in sections_of(model_card(generator, winner, FILES, {}, {}))["Score"]


def test_a_card_says_what_was_measured_and_what_was_not(tmp_path):
    sections = sections_of(card_of(tmp_path / "a")[0])
    assert "Copies: not measured" in sections["Limits"]
    assert "`memorisation`" in sections["Other metrics"].rpartition("Not measured:")[2]
    assert "`fid`" not in sections["Other metrics"]
    sections = sections_of(card_of(tmp_path / "b", metrics=lambda number: MEASURED)[0])
    assert "memorisation 0.93" in sections["Limits"]
    assert "| `generator_parameters` | 123,456 | lower |" in sections["Other metrics"]
    assert "| `kid_classifier` | 0.01 | lower |" in sections["Other metrics"]
    assert "`memorisation`" not in sections["Other metrics"].rpartition("Not measured:")[2]


def test_every_metric_has_its_meaning_on_the_card():
    assert MEANS.keys() == BETTER.keys()


def test_a_card_names_the_data_without_where_they_lie(tmp_path):
    folder = tmp_path / "someone" / "cats & dogs"
    folder.mkdir(parents=True)
    text, _ = card_of(tmp_path, space={**SPACE, "data": {"dataset": str(folder), "size": 16}})
    text = text.replace(str(tmp_path / "made"), "")  # the run, which is named to train it again
    assert "someone" not in text
    assert head_of(text)["datasets"] == ["cats-dogs"]
    assert "`cats & dogs`" in text


def test_the_head_is_what_the_hub_reads(tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    text, winner = card_of(tmp_path)
    data = hub.ModelCard(text).data
    assert data.library_name == "gantune"
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.license == "unknown"
    first = data.eval_results[0]
    assert (first.dataset_name, first.metric_type) == ("digits", "fid_classifier")
    assert first.metric_value == winner.trial.best_score


@pytest.mark.parametrize(
    ("architecture", "shape", "counts"),
    [(CONFIG.architecture, COLOUR, ()), (told_classes(MLP), replace(PLANE, classes=3), (30, 20, 10))],
    ids=["pictures", "points with classes"],
)
def test_the_snippets_of_a_card_run_in_its_folder(tmp_path, architecture, shape, counts):
    config = replace(CONFIG, architecture=architecture)
    path, _ = write_best(tmp_path / "best.safetensors", config, shape, counts)
    winner = tmp_path / "winner"
    export(path, winner)
    text = (winner / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)\n```", text, re.S)
    assert len(snippets) == 3
    shape = (16, *load_generator(path).dims)
    lines = [line for block in re.findall(r"```sh\n(.*?)\n```", text, re.S) for line in block.splitlines()]
    called = [line.split()[1:] for line in lines if line.startswith("python ")]
    assert len(called) == 2
    script = ["import runpy, sys"]
    script += [f"{snippet}\nassert tuple(samples.shape) == {shape}, samples.shape" for snippet in snippets]
    script += [f"sys.argv = {words!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')" for words in called]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, timeout=120, check=False, cwd=winner
    )
    assert done.returncode == 0, done.stderr
    assert (winner / ("drawn.png" if len(shape) == 4 else "drawn.csv")).exists()


def test_an_export_of_a_run_has_the_runs_card(tmp_path, monkeypatch):
    for name in ("torch_program", "onnx_program"):
        monkeypatch.setattr(folder, name, lambda generator: Program(b"a program", 2e-7))
    winner = find_winner(make_run(tmp_path, trials=5, running=0))
    export(winner.checkpoint, tmp_path / "winner", winner)
    text = (tmp_path / "winner" / "README.md").read_text()
    check_nothing_is_empty(text)
    assert f"gantune replay {winner.trial.number} {winner.run.shown} --out FOLDER" in text
    assert "differs from the network's output by at most 2e-07" in text
