"""A folder of images, in any of Pillow's formats; sub-folders, where all images lie in them, are the labels."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from gantune.data.source import Example, Source
from gantune.errors import DataError

SUFFIXES = frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def image_folder(folder: Path) -> Source:
    """The images below a folder. Raises DataError where there are none."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder}: there are no images and no Parquet files in it; expected .png, .jpg and the like")
    named = {path.relative_to(folder).as_posix(): path for path in files}
    tops = [name.partition("/")[0] if "/" in name else "" for name in named]
    class_names = () if "" in tops or len(set(tops)) < 2 else tuple(sorted(set(tops)))

    def opened(*, decoded: bool) -> Iterator[Example]:
        for path, top in zip(files, tops, strict=True):
            try:
                with Image.open(path) as picture:
                    if decoded:
                        picture.load()
                    yield picture, class_names.index(top) if class_names else None
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise DataError(f"{path}: cannot be read as an image: {error}; mend or remove it") from error

    return Source(
        identity=hashlib.sha256("\0".join(named).encode("utf-8", "surrogateescape")).hexdigest(),
        count=len(files),
        class_names=class_names,
        examples=opened(decoded=True),
        headers=opened(decoded=False),
        files=named,
    )
