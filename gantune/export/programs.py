"""A generator as a program that needs no gantune: for PyTorch (torch.export) and for ONNX, each tried before it is had.

torch.export and not TorchScript, which PyTorch has deprecated: its archive holds the graph as JSON and the weights as
bytes, any count of samples goes in, and it gives what the network gives, to the last bit.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gantune import __version__
from gantune.errors import GantuneError
from gantune.export.alone import ABOUT
from gantune.export.generator import Generator

COUNTS = (1, 2, 7, 64)  # samples that a program is tried with
TOLERANCE = 1e-4  # the most that a program's output may differ from the network's
Run = Callable[..., Tensor]


class UnfitError(GantuneError):
    """A network that a format cannot hold."""


@dataclass(frozen=True, slots=True)
class Program:
    """A file's content, and the most that its output was seen to differ from the network's."""

    content: bytes
    difference: float


def torch_program(generator: Generator) -> Program:
    """The archive that `torch.export.load` reads. Raises UnfitError where the network cannot be written so."""
    about = {
        "gantune": __version__,
        "dims": generator.dims,
        "z_dim": generator.z_dim,
        "class_counts": generator.class_counts,
        "class_names": generator.class_names,
    }

    def made() -> tuple[bytes, Run]:
        stream = io.BytesIO()
        torch.export.save(_traced(generator), stream, extra_files={ABOUT: json.dumps(about)})
        loaded: Run = torch.export.load(io.BytesIO(stream.getvalue())).module()
        return stream.getvalue(), loaded

    return _tried(generator, made)


def onnx_program(generator: Generator) -> Program:
    """The model that onnxruntime reads. Raises UnfitError where the network cannot be written so."""

    def made() -> tuple[bytes, Run]:
        import onnxruntime

        given = _inputs(generator, 3)
        program = torch.onnx.export(
            _traced(generator),
            given,
            dynamo=True,
            verbose=False,
            input_names=["latents", "labels"][: len(given)],
            output_names=["samples"],
            dynamic_shapes=tuple({0: "batch"} for _ in given),
        )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def run(*inputs: Tensor) -> Tensor:
            names = [item.name for item in session.get_inputs()]
            fed = {name: values.numpy() for name, values in zip(names, inputs, strict=True)}
            return torch.from_numpy(np.asarray(session.run(None, fed)[0]))

        return content, run

    return _tried(generator, made)


def _tried(generator: Generator, made: Callable[[], tuple[bytes, Run]]) -> Program:
    """A program that was compared with the network. Raises UnfitError where it differs, or cannot be made."""
    with _quiet(), torch.no_grad():
        try:
            content, run = made()
            differences = [_difference(generator, run, count) for count in COUNTS]
        except Exception as error:  # a user's network may fail an exporter in any way
            raise UnfitError(_first_line(error)) from error
    if not all(difference <= TOLERANCE for difference in differences):
        raise UnfitError(
            f"what it gives differs from what the network gives by {max(differences):.2g}, as where a network draws "
            "noise of its own"
        )
    return Program(content, max(differences))


def _traced(generator: Generator) -> torch.export.ExportedProgram:
    given = _inputs(generator, 3)
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in given)
    return torch.export.export(generator.net, given, dynamic_shapes=free)


def _inputs(generator: Generator, count: int) -> tuple[Tensor, ...]:
    stream = torch.Generator().manual_seed(count)
    drawn = torch.randn(count, generator.z_dim, generator=stream)
    if not generator.class_counts:
        return (drawn,)
    return drawn, torch.randint(len(generator.class_counts), (count,), generator=stream)


def _difference(generator: Generator, run: Run, count: int) -> float:
    given = _inputs(generator, count)
    expected, found = generator.net(*given), run(*given)
    if expected.shape != found.shape:
        raise ValueError(f"it gives {tuple(found.shape)} where the network gives {tuple(expected.shape)}")
    return float((expected - found).abs().max())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters print, warn and log: what matters is told by what they raise, and by the comparison."""
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _first_line(error: BaseException) -> str:
    """What went wrong, from the innermost error: exporters wrap it in advice to their developers."""
    while (inner := error.__cause__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300].rstrip(". ")
