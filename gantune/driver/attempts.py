"""How a trial has been tried so far: what its configuration does not say, and a later session must know."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gantune.errors import RunError
from gantune.whole import whole

FILE = "attempts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """`crashes` counts workers that died of it, `moves` machines that were lost under it, `micro_batches` the chunks a
    batch; over all sessions.
    """

    crashes: int = 0
    moves: int = 0
    micro_batches: int = 1


def read_attempts(folder: Path) -> Attempts:
    """What the trial's folder tells; nothing yet where it tells nothing that can be read."""
    try:
        return Attempts(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Attempts()


def write_attempts(folder: Path, attempts: Attempts) -> None:
    """Keep it, whole or not at all. Raises RunError where it cannot be written."""
    try:
        with whole(folder / FILE) as partial:
            partial.write_text(json.dumps(asdict(attempts)), encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder / FILE}: cannot be written: {error.strerror or error}; nothing is lost") from error
