"""What a source of pictures hands over: named, counted, still undecoded or of any size."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

Example = tuple[Image.Image, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures to be decoded once. `examples` yields `count` pictures with their label, or None without labels.

    `identity` changes whenever the pictures do; with the bytes of `files`, by name and in this order, it names the
    decoded copy in the cache. Neither holds where the files lie, so a copy of them is the same data. `headers` yields
    the same pictures, opened but not decoded, where that is cheaper.
    """

    identity: str
    count: int
    class_names: tuple[str, ...]
    examples: Iterator[Example]
    headers: Iterator[Example] | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
