"""One file of tensors and JSON: safetensors, versioned, checksummed, written whole or not at all. No pickles."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gantune.errors import CheckpointError, StorageError
from gantune.whole import whole

VERSION = "1"
Kind = Literal["trial", "generator", "reference"]


def write_checkpoint(path: Path, kind: Kind, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and JSON values to `path`; a reader sees the old file or the new one, never a part.

    Raises StorageError where it cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    header = {"gantune": VERSION, "kind": kind, "meta": text, "sha256": _digest(kind, plain, text)}
    try:
        with whole(path) as partial:
            partial.write_bytes(save(plain, metadata=header))
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_checkpoint(path: Path, kind: Kind) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and JSON values of a file.

    Raises CheckpointError, with the file's name, where it is missing, damaged, altered, foreign or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            views = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            digest = _digest(header.get("kind", ""), views, header.get("meta", ""))
            tensors = {name: view.clone() for name, view in views.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint") from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: is damaged or not a checkpoint: {error}; restore it, or delete it") from error
    if "gantune" not in header:
        raise CheckpointError(f"{path}: was not written by gantune")
    if header["gantune"] != VERSION:
        raise CheckpointError(f"{path}: has format version {header['gantune']}; this gantune reads {VERSION}")
    if header.get("kind") != kind:
        raise CheckpointError(f"{path}: holds a {header.get('kind')}, not a {kind}")
    text = header.get("meta", "")
    if header.get("sha256") != digest:
        raise CheckpointError(f"{path}: does not match its checksum; it was altered or damaged")
    try:
        meta: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its values are not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path}: its values are not a JSON object")
    return tensors, meta


def _digest(kind: str, tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(f"{VERSION}\0{kind}\0{text}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
