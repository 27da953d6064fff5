"""A run directory: what was searched, with which versions, what came out.

docs/runs.md names every file of it.
"""

import json
import os
import shlex
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from gantune.clock import Clock
from gantune.config import BUDGETS
from gantune.errors import CheckpointError, NoSurvivorError, RunError
from gantune.manifest import FORMAT, read_manifest, remedy
from gantune.mirror import DATA, Here, Mirror, find_run
from gantune.objectives import fronts, point
from gantune.provenance import session
from gantune.records import TrialRecord, label_of, standings_of, trials_and_repeats
from gantune.reports import BEST, missing_rows
from gantune.results import Results, Row, in_order, table_of
from gantune.space import SearchSpace
from gantune.standings import Standing
from gantune.storage import Place, is_uri
from gantune.whole import whole
from gantune.writing import dump

# What may differ between sessions of one run: how much is tried and with what, not what a trial is.
EXTENSIBLE = {
    "data": ("dataset",),  # where files lie; whether they are the same is asked of their content
    "budget": ("trials", *BUDGETS, "price_per_hour", "target"),
    "search": ("retries",),
    "resources": None,
    "confirm": None,
    "keep": None,
}
# What a search makes, besides the files of who drives it: of a run that has trained nothing it is made again.
MADE = ("manifest.json", "space.yaml", "reference.safetensors", "study.journal", "ray.log")
MADE_FOLDERS = ("results", "trials", "tensorboard", "ray")


class Run:
    """One run directory, existing or new. Of one that lies at a place, `folder` is this machine's copy."""

    def __init__(self, folder: Path, place: Place | None = None) -> None:
        self.folder = folder
        self.place = place
        self.files = Here(folder) if place is None else Mirror(folder, place)
        self.results = Results(folder / "results", files=self.files)
        self.session = -1  # in the manifest: the last, but for one of several drivers
        self.clock = Clock()

    def __repr__(self) -> str:
        return f"Run({self.shown!r})"

    @staticmethod
    def at(runs: Path | Place, name: str) -> "Run":
        """The run of a name, existing or new."""
        return Run(runs / name) if isinstance(runs, Path) else Run((runs / name).copy, runs / name)

    @property
    def shown(self) -> str:
        """Where it lies, for people: they can name it so."""
        return str(self.place or self.folder)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.folder.name

    @property
    def study_path(self) -> Path:
        """The Optuna journal; optuna-dashboard opens it."""
        return self.folder / "study.journal"

    @property
    def reference_path(self) -> Path:
        """The yardstick of all scores of this run."""
        return self.folder / "reference.safetensors"

    @property
    def data_path(self) -> Path:
        """The table of the files that the reference was made from."""
        return self.folder / DATA

    def trial_folder(self, number: int, repeat: int = 0) -> Path:
        """Where one trial keeps its configuration and checkpoints."""
        return self.folder / "trials" / (f"{number:04d}.{repeat}" if repeat else f"{number:04d}")

    @staticmethod
    def open(where: str | None, runs: Path | Place) -> "Run":
        """An existing run by path or URI, by name below `runs`, or the one last used.

        Raises RunError for none, and for one whose manifest is damaged or of another format.
        """
        if isinstance(runs, Place) or (where is not None and is_uri(where)):
            place = find_run(where, runs)
            found = Run(place.copy, place)
        else:
            found = Run(_find(where, runs))
        found.manifest()
        return found

    def lock(self) -> FileLock:
        """Take the run for this driver. Raises RunError where another one has it, or where it cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            lock.acquire(timeout=0.2)  # whoever looks whether it is driven has it for a moment
            self.files.check_free()
        except Timeout as error:
            raise RunError(
                f"{self.shown}: another search is driving this run; wait for it, end it with `gantune stop`, "
                "or use --name"
            ) from error
        except OSError as error:
            raise RunError(f"{self.folder}: cannot be written: {error.strerror or error}; use --runs") from error
        return lock

    def driven(self) -> bool:
        """Whether a search is driving this run, here or on another machine."""
        return self.files.driven()

    def trained(self) -> bool:
        """Whether any trial has reported, or left weights whose reports are lost."""
        return self.results.written() is not None or bool(list(self.files.checkpoints()))

    def begin(self, space: SearchSpace, *, storage: str | None = None) -> bool:
        """Make the run or continue it; True where it existed. Raises RunError where it was made from another space.

        storage: the database that holds its study, as people may see it; None for the journal. A run keeps to either.
        A run that has trained nothing is made again from another space. Data at another place are noted by `note_data`.
        """
        document = json.loads(json.dumps(space.document()))
        manifest = self.manifest() if (self.folder / "manifest.json").exists() else None
        changed = [] if manifest is None else list(_differences(manifest["space"], document))
        if changed and storage is None and "study" not in (manifest or {}) and not self.trained():
            self.files.clear(MADE, MADE_FOLDERS)
            manifest = None
        elif changed:
            raise RunError(
                f"{self.shown}: was made from another space ({'; '.join(changed[:4])}); "
                "continue it with its own space, or start a new run with --name"
            )
        if manifest is not None:
            if storage is None and "study" in manifest:
                raise RunError(f"{self.shown}: its study lies in a database; name it by --storage or GANTUNE_STORAGE")
            if storage is not None and "study" not in manifest:
                raise RunError(
                    f"{self.shown}: its study lies in {self.study_path.name}; leave --storage out, or use --name"
                )
            document["data"]["dataset"] = manifest["space"]["data"]["dataset"]
        shared = {} if storage is None else {"storage": storage}
        clock = {"began": self.clock.began, "before": self.clock.before}
        sessions = [*(manifest or {}).get("sessions", []), session() | clock | shared]
        self._write("space.yaml", dump(document))
        values = {"format": FORMAT, "seed": space.search.seed, "space": document, "sessions": sessions}
        values["id"] = (manifest or {}).get("id") or uuid.uuid4().hex[:8]  # of this run, wherever it is moved
        if storage is not None:  # a database is shared with other runs, perhaps of the same name
            values["study"] = f"{self.name}-{uuid.uuid4().hex[:8]}"
        values |= {key: manifest[key] for key in ("protocol", "study") if manifest is not None and key in manifest}
        self._write("manifest.json", json.dumps(values, indent=1))
        return manifest is not None

    def note_data(self, dataset: str) -> None:
        """Note where the data lie, which were found to be the run's own."""
        values = self.manifest()
        if values["space"]["data"]["dataset"] != dataset:
            values["space"]["data"]["dataset"] = dataset
            self._write("space.yaml", dump(values["space"]))
            self._write("manifest.json", json.dumps(values, indent=1))

    def settle(self, score: str, reference: str) -> None:
        """Note how scores are measured, the metric's full name and its reference's key.

        Raises RunError where the run's scores were measured otherwise: they would not compare.
        """
        values = self.manifest()
        protocol = {"score": score, "reference": reference}
        if values.get("protocol", protocol) != protocol:
            old = values["protocol"]
            raise RunError(
                f"{self.shown}: its scores are {old['score']} against reference {old['reference']}, these would be "
                f"{score} against {reference}, and the two do not compare; put the old reference back, or use --name"
            )
        self._write("manifest.json", json.dumps({**values, "protocol": protocol}, indent=1))

    @property
    def score_name(self) -> str:
        """What the run's scores are called; plain `score` before it is known."""
        name: str = self.manifest().get("protocol", {}).get("score", "score")
        return name

    def note_resources(self, values: Mapping[str, float]) -> None:
        """Note what a trial of this session occupies: `cpus_per_trial`, which is its threads, and `gpus_per_trial`."""
        self._note("resources", dict(values))

    def note_clock(self) -> None:
        """Note what the run's clock shows at the end of this session."""
        self._note("seconds", self.clock.seconds())

    def note_end(self) -> None:
        """Note that this session came to the search's end: nothing more was asked for."""
        self._note("ended", True)

    def _note(self, name: str, value: Any) -> None:
        manifest = self.manifest()
        manifest["sessions"][self.session][name] = value
        self._write("manifest.json", json.dumps(manifest, indent=1))

    def resources(self) -> dict[str, float]:
        """What a trial occupied when it was last settled, else what the space says; without what is not known."""
        manifest = self.manifest()
        noted = [session["resources"] for session in manifest["sessions"] if "resources" in session]
        values = noted[-1] if noted else manifest["space"]["resources"]
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    def manifest(self) -> dict[str, Any]:
        """The manifest. Raises RunError where it is missing, damaged or of another format."""
        path = self.folder / "manifest.json"
        self.files.refresh()
        return read_manifest(path, self.files.where(path))

    def _write(self, name: str, text: str) -> None:
        try:
            with whole(self.folder / name) as partial:
                partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.folder / name}: cannot be written: {error.strerror or error}") from error
        self.files.send(self.folder / name)

    def rows(self) -> list[Row]:
        """Every report: the results, and what checkpoints hold beyond them. See reports.py."""
        rows = self.results.rows()
        missing = missing_rows(self.files, rows)
        return in_order([*rows, *missing]) if missing else rows

    def trials(self) -> list[TrialRecord]:
        """Every trial of the search that has reported, by number."""
        return trials_and_repeats(self.rows())[0]

    def table(self) -> pa.Table:
        """Every report as a row of an Arrow table; `.to_pandas()` makes a data frame of it."""
        return table_of(self.rows())

    def repeats(self) -> list[TrialRecord]:
        """Every run of a finalist under a fresh seed that has reported, by number and repeat."""
        return trials_and_repeats(self.rows())[1]

    def checkpoint(self, trial: TrialRecord, repeats: Iterable[TrialRecord]) -> Path:
        """The best weights of a trial's configuration: of all its runs, those of the lowest final score."""
        runs = [trial, *(repeat for repeat in repeats if repeat.number == trial.number)]
        scored = [(run.final_score, run.repeat) for run in runs if run.final_score is not None]
        repeat = min(scored)[1] if len(runs) > 1 and scored else 0
        return self.trial_folder(trial.number, repeat) / BEST

    def let_go(self, checkpoint: Path) -> str:
        """How to have weights back that are not there any more, in words; nothing where they are."""
        if self.files.holds(checkpoint):
            return ""
        gone, again = "they are gone, let go by `keep` or deleted", self.replay(checkpoint)
        if again is None:
            return f"{gone}, and what took over another trial's weights cannot be trained again by itself"
        return f"{gone}; `{again}` trains them again, into FOLDER/{checkpoint.name}"

    def replay(self, checkpoint: Path, rows: Iterable[Row] | None = None) -> str | None:
        """The command that trains weights again and compares every number; None where another trial's are in them.

        rows: those of the run, where they have been read.
        """
        label = label_of(checkpoint)
        for row in self.rows() if rows is None else rows:
            if row.donor is not None and label == str(row.trial):
                return None
        return f"gantune replay {label} {shlex.quote(self.shown)} --out FOLDER"

    def weights(self, checkpoint: Path) -> Path:
        """A checkpoint that is there. Raises CheckpointError where it is not, with how to have it back."""
        if remedy := self.let_go(checkpoint):
            raise CheckpointError(f"{self.files.where(checkpoint)}: {remedy}")
        return self.files.fetch(checkpoint)

    def scored(self, number: int, trials: Iterable[TrialRecord] | None = None) -> TrialRecord:
        """A trial that has a score, whatever became of it. Raises NoSurvivorError where it has none."""
        known = {trial.number: trial for trial in (self.trials() if trials is None else trials)}
        chosen = known.get(number)
        if chosen is None:
            have = f"it has #{min(known)} to #{max(known)}" if known else "no trial has"
            raise NoSurvivorError(f"{self.shown}: trial #{number} has not reported; {have}")
        if chosen.best_score is None:
            raise NoSurvivorError(f"{self.shown}: trial #{number} has no score: {chosen.complaint}")
        return chosen

    def baseline(self, trials: Iterable[TrialRecord]) -> TrialRecord | None:
        """The trial of the baseline, where the space has one: it is always the first."""
        if self.manifest()["space"].get("baseline") is None:
            return None
        return next((trial for trial in trials if trial.number == 0), None)

    @property
    def others(self) -> list[str]:
        """The objectives besides the score."""
        metric = self.manifest()["space"]["objective"]["metric"]
        return [] if isinstance(metric, str) else metric[1:]

    def front(self, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
        """The surviving trials that no other beats, each at its best checkpoint; the lowest score first."""
        others = self.others
        alive = [trial for trial in trials if trial.survived]
        points = [point(trial.best_score or 0.0, others, trial.metrics) for trial in alive]
        front = fronts(points)[0] if points else []
        return sorted((alive[at] for at in front), key=lambda trial: (trial.best_score or 0.0, trial.number))

    def best(
        self, trials: Iterable[TrialRecord] | None = None, standings: Sequence[Standing] | None = None
    ) -> TrialRecord:
        """The confirmed finalist that stands first; without standings, the surviving trial of the lowest score.

        Both are read from the rows where neither is given. Raises NoSurvivorError with the reasons where there is none.
        """
        if trials is None and standings is None:
            trials, repeats = trials_and_repeats(self.rows())
            standings = standings_of(repeats)
        trials, standings = list(self.trials() if trials is None else trials), standings or ()
        alive = [trial for trial in trials if trial.survived]
        for standing in standings[:1]:
            alive = [trial for trial in alive if trial.number == standing.number] or alive
        if alive:
            return min(alive, key=lambda trial: (trial.best_score, trial.number))
        if not trials:
            raise NoSurvivorError(f"{self.shown}: no trial has reported yet")
        reasons = [
            f"  #{trial.number} {trial.state} at {trial.samples_seen:,} samples: {trial.complaint}" for trial in trials
        ]
        raise NoSurvivorError("\n".join([f"{self.shown}: no trial survived", *reasons]))


def _find(where: str | None, runs: Path) -> Path:
    """The folder of an existing run."""
    known = {path.parent for path in runs.glob("*/manifest.json")}
    if where is None:
        if not known:
            raise RunError(f"there are no runs in {runs}/; start one with: gantune search SPACE.yaml")
        return max(known, key=lambda folder: (folder / "manifest.json").stat().st_mtime)
    names = sorted(folder.name for folder in known)
    listed = f"runs in {runs}/: {', '.join(names)}" if names else f"there are no runs in {runs}/"
    for folder in (Path(where), runs / where):
        if (folder / "manifest.json").is_file():
            return folder
        if (folder / "space.yaml").is_file() or (folder / "results").is_dir():
            manifest = folder / "manifest.json"
            raise RunError(f"{folder}: is a run without its manifest.json; {remedy(manifest, str(manifest))}; {listed}")
    raise RunError(f"`{where}` is not a run; {listed}")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[str]:
    for key in sorted({*old, *new} - {"name"}):
        before, after = old.get(key), new.get(key)
        if key in EXTENSIBLE and EXTENSIBLE[key] is None:
            continue  # one that is older than the section lacks it
        if key in EXTENSIBLE and isinstance(before, dict) and isinstance(after, dict):
            free: Iterable[str] = EXTENSIBLE[key] or {*before, *after}
            if key == "data" and not all(os.path.isabs(data.get("dataset", "")) for data in (before, after)):
                free = ()  # a name is no place
            if key == "budget" and {"pbt", "pb2"} & {*new["search"]["scheduler"]}:
                free = {*free} - {"trials"}  # a population does not grow
            before = {name: value for name, value in before.items() if name not in free}
            after = {name: value for name, value in after.items() if name not in free}
        if before != after:
            yield _difference(key, before, after)


def _difference(path: str, before: Any, after: Any) -> str:
    """The first place where two documents differ, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            if before.get(key) != after.get(key):
                return _difference(f"{path}.{key}", before.get(key), after.get(key))
    return f"{path}: {before} became {after}"
