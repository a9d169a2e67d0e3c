"""Parquet files: the columns `key` and `embedding`, and `metadata` (JSON) where there is one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from imagekin import errors
from imagekin.sources.containers.blob import Blob
from imagekin.sources.vectors import table
from imagekin.sources.vectors.table import Row, Space

MAGIC = b"PAR1"
MAX_FOOTER_BYTES = 16 << 20
# A row is found by reading its group from the start.
MAX_GROUP_BYTES = 256 << 20
ROWS_PER_BATCH = 512
_WINDOW_BYTES = 1 << 20
# Rows of a wrong length fail by themselves, as long as they are few.
_SPARE_NUMBERS = 4 << 20
_MOST_PARTS = 1_000_000


class Parquet(table.Rows):
    """A Parquet file of the collection's space; raises SourceUnreadable for another file. For one thread."""

    def __init__(self, blob: Blob, space: Space) -> None:
        super().__init__(blob)
        _check_footer(blob)
        with _failures():
            # it takes a tenth of a second and 50 MB, for a few jobs only
            from pyarrow import parquet

            opened = partial(
                parquet.ParquetFile,
                pre_buffer=False,
                buffer_size=_WINDOW_BYTES,
                thrift_string_size_limit=MAX_FOOTER_BYTES,
                thrift_container_size_limit=_MOST_PARTS,
            )
            self._file = opened(_Reader(blob))
            schema, metadata = self._file.schema_arrow, self._file.metadata
        found = (schema.metadata or {}).get(b"space_id")
        table.check_space(None if found is None else found.decode(errors="replace"), space)
        self._columns = _columns(schema, space)
        self._dim = space.dim
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
            raise errors.SourceUnreadable(
                f"The file has a row group of more than {MAX_GROUP_BYTES >> 20} MiB; write it with a smaller "
                "row_group_size."
            )
        _check_numbers(groups, space)
        with _failures():
            # a text that stands in many rows stays one text
            self._file = opened(_Reader(blob), metadata=metadata, read_dictionary=self._columns)
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self._batches: Iterator[tuple[int, Any]] = iter(())
        self._first, self._batch = 0, None

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a row's vector; raises DecodeError if it has not `dim` numbers. Quickest in the rows' order."""
        with _failures():
            batch = self._batch_of(ref["row"])
            values = batch.column(0)[ref["row"] - self._first].values
            vector = np.empty(0, "<f4") if values is None else values.to_numpy(zero_copy_only=False)
        if len(vector) != self._dim:
            raise errors.DecodeError(f"The embedding has {len(vector):,} numbers instead of {self._dim:,}.")
        with np.errstate(over="ignore"):
            return vector.astype("<f4").tobytes()

    def _batch_of(self, row: int) -> Any:
        if self._batch is None or row < self._first:
            self._batches = self._walk(row, ["embedding"])
            self._first, self._batch = next(self._batches, (row, None))
        while self._batch is not None and row >= self._first + len(self._batch):
            self._first, self._batch = next(self._batches, (row, None))
        if self._batch is None:
            raise errors.SourceUnreadable("The file's embeddings are cut off.")
        return self._batch

    def _rows(self, start: int) -> Iterator[Row]:
        with _failures():
            for first, batch in self._walk(start, self._columns):
                after = max(0, start - first)
                columns = [_short_texts(batch.column(name)[after:]) for name in self._columns]
                yield from (Row(*values) for values in zip(*columns, strict=True))

    def _walk(self, row: int, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Yield (number of its first row, batch) from the batch on that holds `row`."""
        for group, (at, end) in enumerate(pairwise(self._starts)):
            if end <= row:
                continue
            for batch in self._file.iter_batches(ROWS_PER_BATCH, [group], columns, use_threads=False):
                if at + len(batch) > row:
                    yield at, batch
                at += len(batch)  # noqa: PLW2901 - where in the group we are


class _Reader(io.RawIOBase):
    """A stored file as pyarrow reads one."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._blob.size}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        data = self._blob.read_at(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _check_footer(blob: Blob) -> None:
    end = blob.read_at(blob.size - 8, 8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC or length > blob.size - 12:
        raise errors.SourceUnreadable("The Parquet file is cut off, or damaged.")
    if length > MAX_FOOTER_BYTES:
        raise errors.SourceUnreadable(f"The Parquet file's footer has more than {MAX_FOOTER_BYTES >> 20} MiB.")


def _check_numbers(groups: list[Any], space: Space) -> None:
    """Raise SourceUnreadable if a group has far more numbers than its rows' vectors: they are read at once."""
    for group in groups:
        columns = [group.column(index) for index in range(group.num_columns)]
        numbers = sum(each.num_values for each in columns if each.path_in_schema.split(".")[0] == "embedding")
        if numbers > _SPARE_NUMBERS + 2 * group.num_rows * space.dim:
            raise errors.SourceUnreadable(
                f"A row group has {numbers:,} numbers in {group.num_rows:,} embeddings; the collection's have "
                f"{space.dim:,} each."
            )


def _short_texts(column: Any) -> list[str | None]:
    """Return a column's texts, None for those that are longer than any that is kept."""
    from pyarrow import scalar, types
    from pyarrow.compute import call_function

    texts = column.dictionary if types.is_dictionary(column.type) else column
    short = call_function("less_equal", [call_function("binary_length", [texts]), scalar(table.MAX_METADATA_BYTES + 1)])
    texts = call_function("if_else", [short, texts, scalar(None, texts.type)])
    return (texts.take(column.indices) if types.is_dictionary(column.type) else texts).to_pylist()


def _columns(schema: Any, space: Space) -> list[str]:
    """Return the names of the columns with keys and metadata; raises SourceUnreadable if one is of no use."""
    from pyarrow import types

    columns = {field.name: field.type for field in schema}
    for name in ("key", "embedding"):
        if list(schema.names).count(name) != 1:
            raise errors.SourceUnreadable(f"The file has no column {name!r}, or several.")
    texts = [name for name in ("key", "metadata") if name in columns]
    for name in texts:
        kind = columns[name].value_type if types.is_dictionary(columns[name]) else columns[name]
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise errors.SourceUnreadable(f"The column {name!r} must be text, not {kind}.")
    kind = columns["embedding"]
    a_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not (a_list and types.is_floating(kind.value_type)):
        raise errors.SourceUnreadable(f"The column 'embedding' must be lists of floating-point numbers, not {kind}.")
    if types.is_fixed_size_list(kind):
        table.check_dim(kind.list_size, space)
    return texts


@contextmanager
def _failures() -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise errors.SourceUnreadable(f"The Parquet file cannot be read: {reason}") from error
