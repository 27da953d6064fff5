"""Draw from the generator beside this file, with PyTorch alone.

    python sample.py -n 64 --seed 0 --out drawn.png       a grid of pictures
    python sample.py -n 100000 --out pictures             a folder of PNG files
    python sample.py --class 3 --truncation 0.7           one class, the more typical pictures

The same seed draws what `gantune sample` draws of it. generator.pt2 is a program of torch.export: it takes latents,
float32 [N, z_dim], and where there are classes labels, int64 [N]; it gives pictures [N, C, S, S] in [-1, 1], or
points [N, D].
"""

# gantune writes this file as sample.py beside generator.pt2, and draws by the same functions itself.

import argparse
import ctypes
import json
import logging
import math
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imported by gantune it changes nothing around it
    os.environ.setdefault("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")  # nothing but tensors is unpickled
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # nothing here needs it

import torch
from torch import Tensor

PROGRAM = "generator.pt2"
ABOUT = "gantune.json"  # inside of the program's archive: sizes and classes
CHUNK = 500  # samples at a time
GRID_MOST = 10_000  # pictures in a grid
CLASS_HELP = (
    "a class's number or name; may be repeated, and they take turns (default: all, in the proportions of the data)"
)
TRUNCATION_HELP = (
    "latents from the normal distribution between -PSI and PSI: lower is more typical and less varied (default: none)"
)
OUT_HELP = "a .png grid, or a folder of PNG files; for points a .csv file (default: drawn.png, for points drawn.csv)"
GAP, WIDTH = 2, 640  # pixels between pictures; small grids are enlarged by a whole factor up to this width


def latents(
    count: int,
    z_dim: int,
    seed: int,
    class_counts: Sequence[int] = (),
    classes: Sequence[int] = (),
    truncation: float | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Latents [N, z_dim] of `count` samples, some hundreds at a time, and labels [N] where there are classes.

    They depend on the seed alone: more samples begin with the same. Labels are drawn in the proportions of
    `class_counts`, or go through `classes` in turn. truncation: each number is drawn from the normal distribution
    between -truncation and truncation, as by drawing again whatever lies beyond. Brock et al. 2019, section 3.1.
    """
    stream = torch.Generator().manual_seed(seed)
    for start in range(0, count, CHUNK):
        if truncation is None:
            drawn = torch.randn(CHUNK, z_dim, generator=stream)
        else:
            even = torch.rand(CHUNK, z_dim, generator=stream, dtype=torch.float64) * 2 - 1
            drawn = (torch.erfinv(even * math.erf(truncation / math.sqrt(2))) * math.sqrt(2)).float()
        given = [drawn]
        if class_counts:
            shares = torch.tensor(class_counts, dtype=torch.float64)
            given.append(torch.multinomial(shares, CHUNK, replacement=True, generator=stream))
            if classes:
                given[1] = torch.tensor(classes)[torch.arange(start, start + CHUNK) % len(classes)]
        yield tuple(values[: count - start] for values in given)


def pixels(samples: Tensor) -> Tensor:
    """Pictures [N, C, S, S] in [-1, 1] as uint8 [N, S, S, C]."""
    return samples.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def grid(pictures: Tensor) -> Tensor:
    """Pictures uint8 [N, S, S, C] side by side, row by row, enlarged by a whole factor."""
    count, height, width, channels = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = torch.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, channels), 255, dtype=torch.uint8)
    for index, picture in enumerate(pictures):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = picture
    factor = max(1, WIDTH // sheet.shape[1])
    return sheet.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def png(picture: Tensor) -> bytes:
    """A picture uint8 [H, W, C] as a PNG file."""
    height, width, channels = picture.shape
    rows = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), picture.reshape(height, -1)], 1).contiguous()
    held = ctypes.string_at(rows.data_ptr(), rows.numel())  # each row after its filter's number, 0 for none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(held, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def load(path: Path) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The program, and what its file says of it. Leaves with a message where it cannot be loaded."""
    told: dict[str, Any] = {ABOUT: ""}
    logging.disable(logging.CRITICAL)  # what PyTorch tries before it gives up is no news
    try:
        if not path.is_file():
            raise OSError("there is no such file; this script belongs beside it")
        program = torch.export.load(path, extra_files=told)
        return program.module(), json.loads(told[ABOUT])
    except Exception as error:  # a damaged file, or one of another PyTorch, may fail in any way
        first = str(error).strip().partition("\n")[0]
        sys.exit(f"{path}: cannot be loaded by PyTorch {torch.__version__}: {first}")
    finally:
        logging.disable(logging.NOTSET)


def label(name: str, about: dict[str, Any]) -> int:
    """The number of a class by its number or name. Raises ValueError for one there is not."""
    names, count = list(about["class_names"]), len(about["class_counts"])
    if not count:
        raise ValueError("the generator knows no classes; leave --class out")
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < count:
        return int(name)
    known = f"; classes are called {', '.join(map(str, names))}" if names else ""
    raise ValueError(f"there is no class {name}; classes are 0 to {count - 1}{known}")


def write(out: Path, draws: Iterator[Tensor], count: int, *, points: bool) -> None:
    """Write samples as a CSV file, a grid, or a folder of PNG files. Raises OSError."""
    if points:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out, "w", encoding="utf-8") as stream:
            for draw in draws:
                stream.writelines(",".join(repr(value) for value in row) + "\n" for row in draw.tolist())
    elif out.suffix.lower() == ".png":
        sheet = png(grid(torch.cat([pixels(draw) for draw in draws])))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(sheet)
    else:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise OSError("is not empty; name another folder")
        index = 0
        for draw in draws:
            for picture in pixels(draw):
                (out / f"{index:06d}.png").write_bytes(png(picture))
                index += 1
            sys.stderr.write(f"\r{index:,} of {count:,}" + "\n" * (index == count))


def _above_zero(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2^63 - 1, got {text}")
    return value


def main() -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-n", "--count", type=_count, default=64, help="how many samples (default: 64)")
    add("--seed", type=_seed, default=0, help="the same seed draws the same samples (default: 0)")
    add("--class", dest="classes", action="append", default=[], metavar="CLASS", help=CLASS_HELP)
    add("--truncation", type=_above_zero, metavar="PSI", help=TRUNCATION_HELP)
    add("--out", type=Path, help=OUT_HELP)
    given = parser.parse_args()
    program, about = load(Path(__file__).resolve().parent / PROGRAM)
    points = len(about["dims"]) != 3
    out: Path = given.out or Path("drawn.csv" if points else "drawn.png")
    kind = out.suffix.lower()
    try:
        classes = [label(name, about) for name in given.classes]
    except ValueError as error:
        parser.error(f"--class: {error}")
    if points and kind != ".csv":
        parser.error(f"--out: the generator draws points, which go to a .csv file, got {out}")
    if not points and kind not in ("", ".png") and not out.is_dir():
        parser.error(f"--out: must end in .png, or be a folder's name without a suffix, got {out}")
    if not points and kind == ".png" and given.count > GRID_MOST:
        parser.error(f"--out: a grid holds {GRID_MOST:,} pictures; name a folder for {given.count:,}")
    drawn = latents(given.count, about["z_dim"], given.seed, about["class_counts"], classes, given.truncation)
    with torch.inference_mode():
        try:
            write(out, (program(*inputs) for inputs in drawn), given.count, points=points)
        except OSError as error:
            sys.exit(f"{out}: cannot be written: {error.strerror or error}")
    print(f"{given.count:,} samples in {out}")


if __name__ == "__main__":
    main()
