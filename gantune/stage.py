"""What a driver tells of itself between rows, as small files in the run's directory: its stage, and whom it trains."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from gantune.whole import whole

FILE = "stage.json"
TRAINING = "training.json"
SHARE = re.compile(r"[\s:,(]*(\d{1,3})%\)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the preparation, by the process that drives the run.

    `share`: how much is done, None where unknown. `began`: the step, `entered`: the command, `written`: this file, all
    in seconds since 1970. `seconds`: the run's clock when it was written.
    """

    name: str
    share: float | None = None
    began: float = 0.0
    host: str = ""
    pid: int | None = None
    entered: float = 0.0
    written: float = 0.0
    seconds: float = 0.0


def parse_report(text: str) -> tuple[str, float | None]:
    """Split a report such as `decoding photos: 5 of 20 images (25%)` into its stage and the share that is done."""
    found = SHARE.search(text)
    return text[: found.start() if found else None].partition(":")[0].strip(), found and int(found[1]) / 100


def read_stage(folder: Path) -> Stage | None:
    """Return the stage that a driver's folder tells of, None where there is none."""
    try:
        return Stage(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_stage(folder: Path, stage: Stage) -> None:
    """Write the stage whole. Raises OSError."""
    with whole(folder / FILE) as partial:
        partial.write_text(json.dumps(asdict(stage)), encoding="utf-8")


def read_training(folder: Path) -> set[tuple[int, int]] | None:
    """Return the trials and repeats that have a worker of a driver, by its folder; None where it does not tell."""
    try:
        return {(trial, repeat) for trial, repeat in json.loads((folder / TRAINING).read_text(encoding="utf-8"))}
    except (OSError, ValueError, TypeError):
        return None


def write_training(folder: Path, trials: Iterable[tuple[int, int]]) -> None:
    """Write which trials and repeats have a worker. Raises OSError."""
    with whole(folder / TRAINING) as partial:
        partial.write_text(json.dumps(sorted(trials)), encoding="utf-8")
