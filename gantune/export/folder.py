"""A folder to take away: weights, programs that need no gantune, a script, a picture, and what is known of it all."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gantune.checkpoint import write_checkpoint
from gantune.errors import GantuneError
from gantune.export import alone
from gantune.export.card import model_card
from gantune.export.generator import WEIGHTS, load_generator
from gantune.export.programs import Program, UnfitError, onnx_program, torch_program
from gantune.whole import whole
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
    """Write all that a generator is taken away with; each file is whole or not there.

    winner: what its run tells of it, for the model card. report: the page of its search, to lie beside it. A network
    that a program cannot hold is exported without that one. Raises GantuneError where the checkpoint is damaged, where
    the folder cannot be written, or where it is no earlier export and has files that would be written over.
    """
    generator = load_generator(checkpoint)
    files = [WEIGHTS, CONFIG]
    with _writing(folder):
        taken = [name for name in FILES if (folder / name).exists()]
        if taken and WEIGHTS not in taken:
            raise GantuneError(f"{folder}: has {', '.join(taken)} already, and is no earlier export; name a new folder")
        with whole(folder / PICTURE) as partial:
            generator.save_picture(partial)
            # before anything else is there: what has weights is an export, and may be written over
            write_checkpoint(folder / WEIGHTS, "generator", generator.net.state_dict(), generator.meta)
        _put(folder / CONFIG, dump(generator.meta["config"]).encode())
        differences: dict[str, float] = {}
        left_out: dict[str, str] = {}
        for name, make in ((alone.PROGRAM, torch_program), (ONNX, onnx_program)):
            try:
                program: Program = make(generator)
            except UnfitError as error:
                (folder / name).unlink(missing_ok=True)  # it would be another network's
                instead = f"use {alone.PROGRAM}" if alone.PROGRAM in files else "draw by `gantune sample`"
                reason = f"the network cannot be written so ({error}); {instead}, or change the architecture"
                left_out[name] = f"{name} is left out: {reason}"
            else:
                _put(folder / name, program.content)
                differences[name] = program.difference
                files.append(name)
        if alone.PROGRAM in files:
            _put(folder / SCRIPT, Path(alone.__file__).read_bytes())
            files.append(SCRIPT)
        else:
            (folder / SCRIPT).unlink(missing_ok=True)
            left_out[SCRIPT] = f"{SCRIPT} is left out: it would draw by {alone.PROGRAM}"
        if report is not None:
            _put(folder / REPORT, report.encode())
            files.append(REPORT)
        files += [PICTURE, CARD]
        found = Exported(folder=folder, files=tuple(files), differences=differences, left_out=left_out)
        _put(folder / CARD, model_card(generator, winner, found.files, differences, left_out).encode())
    return found


def _put(path: Path, content: bytes) -> None:
    with whole(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GantuneError(f"{folder}: cannot be written: {error.strerror or error}") from error
