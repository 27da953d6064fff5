"""A folder to take away: weights, programs that need no gantune, a script, a picture, and what is known of it all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gantune.checkpoint import write_checkpoint
from gantune.errors import GantuneError
from gantune.export import alone
from gantune.export.card import model_card
from gantune.export.generator import WEIGHTS, load_generator
from gantune.export.programs import Program, UnfitError, onnx_program, torch_program
from gantune.winner import Winner
from gantune.writing import dump

CONFIG, PICTURE, CARD, ONNX, SCRIPT = "config.yaml", "samples.png", "README.md", "generator.onnx", "sample.py"
REPORT = "report.html"
FILES = (WEIGHTS, CONFIG, alone.PROGRAM, ONNX, SCRIPT, REPORT, PICTURE, CARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written. `differences`: the most that each program was seen to differ from the network.

    `left_out`: why a file is not there, a sentence each.
    """

    folder: Path
    files: tuple[str, ...]
    differences: dict[str, float]
    left_out: dict[str, str]


def export(checkpoint: Path, folder: Path, winner: Winner | None = None, report: str | None = None) -> Exported:
    """Write all that a generator is taken away with; what fails or is ended leaves an earlier export as it was.

    winner: what its run tells of it, for the model card. report: the page of its search, to lie beside it. A network
    that a program cannot hold is exported without that one. Raises GantuneError where the checkpoint is damaged, where
    the folder cannot be written, or where it is no earlier export and has files that would be written over.
    """
    generator = load_generator(checkpoint)
    with _written_together(folder) as made:
        write_checkpoint(made / WEIGHTS, "generator", generator.net.state_dict(), generator.meta)
        generator.save_picture(made / PICTURE)
        (made / CONFIG).write_bytes(dump(generator.meta["config"]).encode())
        differences: dict[str, float] = {}
        left_out: dict[str, str] = {}
        for name, make in ((alone.PROGRAM, torch_program), (ONNX, onnx_program)):
            try:
                program: Program = make(generator)
            except UnfitError as error:
                instead = f"use {alone.PROGRAM}" if alone.PROGRAM in differences else "draw by `gantune sample`"
                reason = f"the network cannot be written so ({error}); {instead}, or change the architecture"
                left_out[name] = f"{name} is left out: {reason}"
            else:
                (made / name).write_bytes(program.content)
                differences[name] = program.difference
        if alone.PROGRAM in differences:
            shutil.copyfile(alone.__file__, made / SCRIPT)
        else:
            left_out[SCRIPT] = f"{SCRIPT} is left out: it would draw by {alone.PROGRAM}"
        if report is not None:
            (made / REPORT).write_bytes(report.encode())
        files = tuple(name for name in FILES if (made / name).exists() or name == CARD)
        (made / CARD).write_bytes(model_card(generator, winner, files, differences, left_out).encode())
    return Exported(folder=folder, files=files, differences=differences, left_out=left_out)


@contextlib.contextmanager
def _written_together(folder: Path) -> Iterator[Path]:
    """An empty folder whose files become those of an export once all are there, in the place of an earlier one's."""
    try:
        taken = [name for name in FILES if (folder / name).exists()]
        if taken and WEIGHTS not in taken:
            raise GantuneError(f"{folder}: has {', '.join(taken)} already, and is no earlier export; name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-", ignore_cleanup_errors=True) as partial:
            made = Path(partial)
            yield made
            for name in FILES:  # weights first: what has them is an export, and may be written over
                if (made / name).exists():
                    (made / name).replace(folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)  # it would be another network's
    except OSError as error:
        raise GantuneError(f"{folder}: cannot be written: {error.strerror or error}") from error
