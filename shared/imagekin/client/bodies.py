"""Bodies of requests, opened for every attempt, so that a repeated request sends the whole body again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from imagekin import errors
from imagekin.schemas import keys

CHUNK_BYTES = 1 << 18

# The parts of a request that httpx2 calls content, json, files, data and headers.
Body = Callable[[], AbstractContextManager[Mapping[str, Any]]]
# Called with the bytes sent so far; from 0 again when an attempt broke.
Sent = Callable[[int], None]

M = TypeVar("M", bound=BaseModel)


def name_of(path: PurePath) -> str:
    """Return a file's name as text, also one that is not UTF-8."""
    return keys.of_bytes(os.fsencode(path.name))


def expanded(path: Path) -> Path:
    """Return a path with `~` as the home folder; one of a user that is not there stays a name."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


@contextmanager
def empty() -> Iterator[Mapping[str, Any]]:
    yield {}


def model(kind: type[M], **fields: Any) -> M:
    """Check the fields that were given, None means not; raises `InvalidRequest` with a pointer to each bad one."""
    try:
        return kind(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        pointers = [
            {"pointer": "/" + "/".join(str(part) for part in found["loc"]), "detail": found["msg"]}
            for found in error.errors(include_url=False)
        ]
        detail = "; ".join(f"{found['pointer'][1:]}: {found['detail']}" for found in pointers)
        raise errors.InvalidRequest(f"{detail}.", errors=pointers) from error


def json(kind: type[BaseModel], **fields: Any) -> Body:
    """Make a JSON body of the fields that were given; raises `InvalidRequest`."""
    return of_json(model(kind, **fields).model_dump(mode="json", exclude_unset=True))


def of_json(value: Mapping[str, Any]) -> Body:
    @contextmanager
    def body() -> Iterator[Mapping[str, Any]]:
        yield {"json": value}

    return body


def of_pieces(pieces: Callable[[], Iterable[bytes]], sent: Sent | None = None) -> Body:
    """Make a chunked body from `pieces`, which is called for every attempt."""

    @contextmanager
    def body() -> Iterator[Mapping[str, Any]]:
        yield {"content": _counted(pieces(), sent)}

    return body


def of_file(source: Path | BinaryIO | bytes, sent: Sent | None = None) -> Body:
    """Make a body of one file, from its start again for every attempt."""

    @contextmanager
    def body() -> Iterator[Mapping[str, Any]]:
        if isinstance(source, bytes):
            yield {"content": source}
            return
        with _opened(source) as file:
            start = file.tell()
            size = file.seek(0, os.SEEK_END) - start
            file.seek(start)
            try:
                pieces = iter(lambda: file.read(CHUNK_BYTES), b"")
                yield {"content": _counted(pieces, sent), "headers": {"content-length": str(size)}}
            finally:
                file.seek(start)

    return body


def of_form(field: str, source: Path | BinaryIO | bytes, name: str, values: Mapping[str, str]) -> Body:
    """Make a multipart form of one file and some fields, read again for every attempt."""

    @contextmanager
    def body() -> Iterator[Mapping[str, Any]]:
        if isinstance(source, bytes):
            yield {"files": {field: (name, source)}, "data": dict(values)}
            return
        with _opened(source) as file:
            start = file.tell()
            try:
                yield {"files": {field: (name, file)}, "data": dict(values)}
            finally:
                file.seek(start)

    return body


@contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(source, PurePath):
        yield source
        return
    with source.open("rb") as file:
        yield file


def _counted(pieces: Iterable[bytes], sent: Sent | None) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        yield piece
        total += len(piece)
        if sent:
            sent(total)
