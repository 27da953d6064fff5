"""What `import gantune` offers: a search and its results from Python, in a notebook or a program of one's own."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantune.driver.preparation import Preparation
from gantune.driver.screen import Screen
from gantune.driver.search import search as drive
from gantune.errors import SpecError
from gantune.export import Exported, Generator, open_generator
from gantune.run import Run
from gantune.space import NAME, SearchSpace, load_space
from gantune.storage import Place, is_uri
from gantune.winner import find_winner

Space = str | os.PathLike[str] | Mapping[str, Any] | SearchSpace
Folder = str | os.PathLike[str] | Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A checked search that has not begun: its space, its run, and the runs that it learns from."""

    space: SearchSpace
    run: Run
    earlier: tuple[Run, ...] = ()

    def carry_on(
        self,
        *,
        address: str | None = None,
        storage: str | None = None,
        progress: bool = True,
        track: Sequence[str] = (),
        preparation: Preparation | None = None,
    ) -> bool:
        """Carry it to its end, from wherever it stands; False where a person stopped it before.

        preparation: of a command that has begun it, with its screen.
        """
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            screen = Screen(None if progress else nowhere) if preparation is None else preparation.screen
            return drive(self.space, self.run, screen, address, self.earlier, storage, track, preparation)


def search(
    space: Space,
    *,
    name: str | None = None,
    runs: Folder = "runs",
    overrides: Sequence[str] = (),
    address: str | None = None,
    earlier: Sequence[str | Run] = (),
    storage: str | None = None,
    progress: bool = True,
    track: Sequence[str] = (),
) -> Run:
    """Search a space for the best GAN, and return its run; the same call continues a run that is not finished.

    space: a YAML file's path, the same as nested dicts, or a SearchSpace. name: the run's folder below `runs`, else the
    space's own name. runs: a folder, or a URI as s3://bucket/prefix. overrides: `path=value`, as `--set` takes them.
    address: a Ray cluster to join. A Ray that is connected already is used, and left as it is. earlier: runs to learn
    from. storage: the URL of a database for the study, so that several drivers share the run. progress: whether to
    print it to stderr. track: `mlflow`, `wandb`, `aim`, which are told of every report.

    An interrupt (Ctrl-C, a notebook's stop button) or `gantune stop` ends it cleanly, with the run so far. In a thread
    other than the main one only the latter does. Raises GantuneError; nothing is lost then.
    """
    task = prepare(space, name=name, runs=runs, overrides=overrides, earlier=earlier)
    task.carry_on(address=address, storage=storage, progress=progress, track=track)
    return task.run


def resume(
    run: str | Run | None = None,
    *,
    runs: Folder = "runs",
    overrides: Sequence[str] = (),
    address: str | None = None,
    storage: str | None = None,
    progress: bool = True,
    track: Sequence[str] = (),
) -> Run:
    """Carry on a run from its own directory; without `run`, the one last used.

    overrides: what may differ from before, `budget` but for `samples_per_trial` and `target`, `search.retries`,
    `resources`, `confirm` and `keep`.
    """
    task = prepare_again(open_run(run, runs=runs), overrides)
    task.carry_on(address=address, storage=storage, progress=progress, track=track)
    return task.run


def prepare(
    space: Space,
    *,
    name: str | None = None,
    runs: Folder = "runs",
    overrides: Sequence[str] = (),
    earlier: Sequence[str | Run] = (),
) -> Task:
    """Read and check what a search needs. Raises SpecError or RunError; nothing is started."""
    if name is not None and not NAME.fullmatch(name):
        raise SpecError(f"a run's name must be that of a folder below {runs}/, without a slash, got `{name}`")
    if isinstance(space, SearchSpace):
        loaded = load_space(space.document(), overrides) if overrides else space
    else:
        loaded = load_space(space if isinstance(space, Mapping) else os.fspath(space), overrides)
    run = Run.at(_below(runs), name or loaded.name)
    others = tuple(open_run(other, runs=runs) for other in earlier)
    if any(other.folder.resolve() == run.folder.resolve() for other in others):
        raise SpecError(f"{run.shown}: cannot learn from itself, and knows its own trials; give it another name")
    return Task(space=loaded, run=run, earlier=others)


def prepare_again(run: Run, overrides: Sequence[str] = ()) -> Task:
    """A run's own search, as its manifest has it: a lost space.yaml is written again. Raises SpecError or RunError."""
    return Task(space=load_space(run.manifest()["space"], overrides), run=run)


def open_run(run: str | os.PathLike[str] | Run | None = None, *, runs: Folder = "runs") -> Run:
    """A run by path, by URI or by name below `runs`; without either, the one last used. Raises RunError for none."""
    return run if isinstance(run, Run) else Run.open(None if run is None else os.fspath(run), _below(runs))


def _below(runs: Folder) -> Path | Place:
    """Where runs lie: in a folder of this machine, or at a URI."""
    if isinstance(runs, Place):
        return runs
    return Place(text) if is_uri(text := os.fspath(runs)) else Path(text)


def generator(
    run: str | os.PathLike[str] | Run | None = None, trial: int | None = None, *, runs: Folder = "runs"
) -> Generator:
    """The generator of a run's best trial, or of a given one, as `gantune best --export` would write it.

    Instead of a run also a checkpoint, or an export's folder. `.draw(count, seed)` gives samples as a NumPy array,
    `.net` is the torch module. Raises NoSurvivorError where there is no best trial, and where a given one never had a
    score; CheckpointError where its weights were let go.
    """
    return open_generator(run, _below(runs), trial)


def export_best(
    folder: str | os.PathLike[str],
    run: str | Run | None = None,
    *,
    metric: str | None = None,
    trial: int | None = None,
    runs: Folder = "runs",
) -> Exported:
    """Write a run's best generator into a folder, with all that `gantune best --export` puts there.

    metric: the best by another one that was measured. trial: this one instead. `.left_out` of what is returned says
    which files the network could not be written as, and why. Raises GantuneError.
    """
    from gantune.report.page import export_with_report  # which takes its time to import

    winner = find_winner(open_run(run, runs=runs), by=metric, number=trial)
    return export_with_report(winner, Path(folder))
