"""What a source of pictures hands over: named, counted, still undecoded or of any size."""

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

Example = tuple[Image.Image, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures to be decoded once. `examples` yields `count` pictures with their label, or None without labels.

    `identity` changes whenever the pictures do; it names the decoded copy in the cache. `headers` yields the same,
    opened but not decoded, where that is cheaper.
    """

    identity: str
    count: int
    class_names: tuple[str, ...]
    examples: Iterator[Example]
    headers: Iterator[Example] | None = None
