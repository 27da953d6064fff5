"""Samples as files: a grid, a folder, or a data set; written under a temporary name, then renamed."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from gantune.errors import GantuneError, SpecError
from gantune.export.alone import GRID_MOST
from gantune.metrics.reference import Samples
from gantune.pictures import cloud, grid

FILES = (".png", ".npz", ".parquet", ".csv", ".webp", ".gif")
OTHERS = (".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy", ".json", ".txt", ".zip", ".tar", ".pt", ".safetensors")
FRAME_MS = 80
FRAME_WIDTH = 256  # pixels up to which the pictures of a film are enlarged, by whole factors
PLAIN = re.compile(r'[^\s./\\<>:"|?*][^\x00-\x1f/\\<>:"|?*]*')  # a class that may name a folder
Draws = Iterator[Samples]


def check_out(out: Path, dims: Sequence[int], count: int, *, walk: bool) -> None:
    """Raise SpecError for a place where such samples cannot be written, before any is drawn."""
    kind, pictures = out.suffix.lower(), len(dims) == 3
    if out.is_dir() and any(out.iterdir()):
        raise SpecError(f"--out {out}: is a folder that is not empty; name another, or empty it")
    if kind in OTHERS:
        raise SpecError(f"--out {out}: cannot be written as {kind}; use {', '.join(FILES)}, or a folder's name")
    if walk and not pictures:
        raise SpecError("--interpolate: the generator draws points, and there are no pictures between them")
    if walk and kind not in (".png", ".webp", ".gif"):
        raise SpecError(f"--out {out}: an interpolation goes to a .png grid, or to a .webp or .gif film")
    if not walk and kind in (".webp", ".gif"):
        raise SpecError(f"--out {out}: a film shows an interpolation; add --interpolate, or use .png")
    if kind == ".parquet" and not pictures:
        raise SpecError(f"--out {out}: a data set in Parquet holds pictures; use .csv or .npz for points")
    if kind == ".csv" and pictures:
        raise SpecError(f"--out {out}: .csv holds points; use .png, .npz, .parquet or a folder's name for pictures")
    if kind in (".png", ".webp", ".gif") and pictures and count > GRID_MOST:
        instead = "ask for fewer" if walk else "name a folder"
        raise SpecError(f"--out {out}: holds {GRID_MOST:,} pictures at most, got -n {count}; {instead}")


def write_samples(out: Path, draws: Draws, count: int, dims: Sequence[int], names: Sequence[str] = ()) -> None:
    """Write `count` samples as the name says; `names` are those of the classes. Raises GantuneError."""
    kind = out.suffix.lower()
    if kind == ".png":
        _put(out, lambda path: _sheet(_all(draws)).save(path, "PNG"))
    elif kind == ".npz":
        _put(out, lambda path: _npz(path, draws, count, dims))
    elif kind == ".parquet":
        _put(out, lambda path: _parquet(path, draws, names))
    elif kind == ".csv":
        _put(out, lambda path: _csv(path, draws))
    else:
        _put(out, lambda path: _folder(path, draws, names))


def write_walk(out: Path, draws: Draws, steps: int) -> None:
    """Write an interpolation as a grid with `steps` pictures in a row, or as a film that repeats."""
    if out.suffix.lower() == ".png":
        _put(out, lambda path: grid(_all(draws), columns=steps).save(path, "PNG"))
    else:
        _put(out, lambda path: _film(path, draws, out.suffix[1:].upper()))


def _put(out: Path, write: Callable[[Path], None]) -> None:
    """Write under a temporary name beside it, and rename what is whole."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _drop(partial)
        write(partial)
        os.replace(partial, out)
    except OSError as error:
        raise GantuneError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            _drop(partial)


def _drop(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


def _all(draws: Draws) -> npt.NDArray[Any]:
    found: npt.NDArray[Any] = torch.cat([samples.examples for samples in draws]).numpy()
    return found


def _sheet(samples: npt.NDArray[Any]) -> Image.Image:
    return grid(samples) if samples.ndim == 4 else cloud(samples)


def _picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    plain = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(plain))


def _folder(folder: Path, draws: Draws, names: Sequence[str]) -> None:
    """000000.png, 000001.png ..., below a folder for each class where there are any; or points.npy."""
    folder.mkdir()
    index = 0
    for samples in draws:
        if samples.examples.dim() != 4:
            kept = [samples, *draws]
            np.save(folder / "points.npy", torch.cat([one.examples for one in kept]).numpy())
            return
        for place, picture in enumerate(samples.examples.numpy()):
            below = folder if samples.labels is None else folder / _called(int(samples.labels[place]), names)
            below.mkdir(exist_ok=True)
            _picture(picture).save(below / f"{index:06d}.png")
            index += 1


def _called(number: int, names: Sequence[str]) -> str:
    """A class's folder: its name where all can be folders, else its number, so that the order of names is theirs."""
    plain = len({name.casefold() for name in names}) == len(names) and all(PLAIN.fullmatch(name) for name in names)
    return names[number] if names and plain else f"{number:04d}"


def _npz(path: Path, draws: Draws, count: int, dims: Sequence[int]) -> None:
    """`arr_0`, pictures uint8 [N, S, S, C] or points float32 [N, D]; `arr_1`, labels int64 [N], where there are any."""
    pictures = len(dims) == 3
    shape = (count, *dims[1:], dims[0]) if pictures else (count, *dims)
    labels = []
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
            kind = np.dtype(np.uint8 if pictures else np.float32)
            stream.write(_header(shape, kind))
            for samples in draws:
                examples = samples.examples.permute(0, 2, 3, 1) if pictures else samples.examples
                stream.write(np.ascontiguousarray(examples.numpy()).tobytes())
                labels += [] if samples.labels is None else [samples.labels.numpy()]
        if labels:
            with archive.open("arr_1.npy", "w") as stream:
                stream.write(_header((count,), np.dtype(np.int64)) + np.concatenate(labels).tobytes())


def _header(shape: tuple[int, ...], kind: np.dtype[Any]) -> bytes:
    stream = io.BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue()


def _parquet(path: Path, draws: Draws, names: Sequence[str]) -> None:
    """`image`, struct{bytes, path} of PNG files, and `label`, as the Hugging Face hub lays them out."""
    first = next(draws)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = [("image", struct)]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if first.labels is not None:
        columns.append(("label", pa.int64()))
        plain = {"dtype": "int64", "_type": "Value"}
        features["label"] = {"names": list(names), "_type": "ClassLabel"} if names else plain
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    index = 0
    with pq.ParquetWriter(path, pa.schema(columns, metadata=about)) as writer:
        for samples in itertools.chain([first], draws):
            cells = []
            for picture in samples.examples.numpy():
                stream = io.BytesIO()
                _picture(picture).save(stream, "PNG")
                cells.append({"bytes": stream.getvalue(), "path": f"{index:06d}.png"})
                index += 1
            values = [pa.array(cells, struct)]
            values += [] if samples.labels is None else [pa.array(samples.labels.numpy())]
            writer.write_batch(pa.record_batch(values, schema=writer.schema))


def _csv(path: Path, draws: Draws) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        for samples in draws:
            stream.writelines(",".join(map(repr, row)) + "\n" for row in samples.examples.tolist())


def _film(path: Path, draws: Draws, kind: str) -> None:
    frames = []
    for picture in _all(draws):
        frame = _picture(picture)
        factor = max(1, FRAME_WIDTH // frame.width)
        frames.append(frame.resize((frame.width * factor, frame.height * factor), Image.Resampling.NEAREST))
    more: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, **more)
