"""Parquet in the Hugging Face layout: an image column of struct{bytes, path}, and labels where there are any."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from gantune.config import DataConfig
from gantune.data.source import Example, Source
from gantune.errors import DataError
from gantune.plugins import did_you_mean


def parquet(files: list[Path], folder: Path, config: DataConfig) -> Source:
    """The pictures of one or more Parquet files of one schema in a folder.

    Raises DataError where a file is not Parquet, or where the columns are missing or of another type.
    """
    named: dict[str, Path] = {}
    count = 0
    schema: pa.Schema | None = None
    for path in files:
        try:
            with pq.ParquetFile(path) as shard:
                count += shard.metadata.num_rows
                _check_image_column(path, shard.schema_arrow, config.image_column)
                schema = schema or shard.schema_arrow
                if _labelled(schema, config) != _labelled(shard.schema_arrow, config):
                    raise DataError(f"{path}: its labels are not of the kind that {files[0].name} has; make them alike")
                name = path.relative_to(folder)
                named |= {name.as_posix(): path}
                named |= {(name.parent / place).as_posix(): path.parent / place for place in _outside(shard, config)}
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{path}: cannot be read as Parquet: {error}; data are a folder of images or Parquet"
            ) from error
    assert schema is not None
    if not count:
        raise DataError(f"{files[0]}: has no rows")
    labelled = _labelled(schema, config)
    columns = [config.image_column] + [config.label_column] * labelled

    def opened(*, decoded: bool) -> Iterator[Example]:
        for path in files:
            try:
                yield from _examples(path, columns, decoded)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{path}: cannot be read as Parquet: {error}") from error

    names = _class_names(schema, config.label_column) if labelled else ()
    shards = [path.relative_to(folder).as_posix() for path in files] if len(files) > 1 else []
    return Source(
        identity=hashlib.sha256(json.dumps([config.image_column, config.label_column, shards]).encode()).hexdigest(),
        count=count,
        class_names=names,
        examples=opened(decoded=True),
        headers=opened(decoded=False),
        files=named,
    )


def guess_columns(path: Path) -> tuple[str, str]:
    """The columns of pictures and of labels: `image` and `label`, or the only ones that could be."""
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):
        return "image", "label"  # its reader says what is wrong
    images = [field.name for field in schema if _holds_images(field.type)]
    numbers = [field.name for field in schema if pa.types.is_integer(field.type) and "label" in field.name]
    image = images[0] if len(images) == 1 else "image"
    return image, numbers[0] if len(numbers) == 1 else "label"


def _labelled(schema: pa.Schema, config: DataConfig) -> bool:
    return config.label_column in schema.names and pa.types.is_integer(schema.field(config.label_column).type)


def _examples(path: Path, columns: list[str], decoded: bool) -> Iterator[Example]:
    row = 0
    with pq.ParquetFile(path) as opened:
        for batch in opened.iter_batches(batch_size=1024, columns=columns):
            cells = batch.column(columns[0]).to_pylist()
            labels = batch.column(columns[1]).to_pylist() if len(columns) > 1 else [None] * len(cells)
            for cell, label in zip(cells, labels, strict=True):
                yield _open(path, row, cell, decoded), label
                row += 1


def _outside(shard: pq.ParquetFile, config: DataConfig) -> Iterator[str]:
    """Yield the paths of the pictures that lie outside of a Parquet file."""
    column = config.image_column
    kind = shard.schema_arrow.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return
    for group in range(shard.num_row_groups):
        if _may_be_null(shard.metadata.row_group(group), f"{column}.bytes"):
            for batch in shard.iter_batches(1024, row_groups=[group], columns=[column]):
                yield from (
                    cell["path"]
                    for cell in batch.column(0).to_pylist()
                    if cell and cell["bytes"] is None and cell["path"]
                )


def _may_be_null(group: pq.RowGroupMetaData, path: str) -> bool:
    """Whether values of a column may be missing: those of most files never are, and so are not read for this."""
    columns = (group.column(index) for index in range(group.num_columns))
    found = next((column.statistics for column in columns if column.path_in_schema == path), None)
    return found is None or not found.has_null_count or bool(found.null_count)


def _check_image_column(path: Path, schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        hint = did_you_mean(column, schema.names)
        raise DataError(f"{path}: has no column `{column}`{hint}; set data.image_column")
    kind = schema.field(column).type
    if not _holds_images(kind):
        raise DataError(f"{path}: column `{column}` is {kind}; expected struct{{bytes, path}} or binary")


def _holds_images(kind: pa.DataType) -> bool:
    plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(plain or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0))


def _open(path: Path, row: int, cell: object, decoded: bool) -> Image.Image:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    place = cell.get("path") if isinstance(cell, dict) else None
    try:
        if content is None and place:
            content = (path.parent / place).read_bytes()
        if not isinstance(content, bytes):
            raise ValueError("it is empty")
        picture = Image.open(io.BytesIO(content))
        if decoded:
            picture.load()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the image in row {row} cannot be read: {error}; mend or remove the row") from error
    return picture


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Names of the labels from the schema's metadata: `class_names` (JSON or commas), or Hugging Face's features."""
    metadata = schema.metadata or {}
    try:
        if b"class_names" in metadata:
            text = metadata[b"class_names"].decode()
            return tuple(str(name) for name in (json.loads(text) if text.startswith("[") else text.split(",")))
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return ()
