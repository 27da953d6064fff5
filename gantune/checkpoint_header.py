"""The header of a checkpoint: its metadata without its tensors, and without torch.

Format: https://huggingface.co/docs/safetensors; eight bytes with the header's length, the header as JSON, the tensors.
"""

import json
from typing import BinaryIO

MOST = 100_000_000  # bytes of a header that safetensors itself takes


def read_metadata(stream: BinaryIO, size: int) -> dict[str, str] | None:
    """The metadata of a safetensors file of `size` bytes; None where it is damaged, or shorter than its tensors."""
    length = int.from_bytes(stream.read(8), "little")
    if not 0 < length <= min(MOST, size - 8):
        return None
    try:
        header = json.loads(stream.read(length))
        metadata: dict[str, str] = header.pop("__metadata__", {})
        tensors = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return metadata if size == 8 + length + tensors else None
