"""Archives by their content, and gzip taken off a stream of bytes."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

from imagekin import errors

TAR_BLOCK = tarfile.BLOCKSIZE
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31
_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 20
# Gzipped data that has not given a tar header after this much input is no tar that an honest program wrote.
_PROBE_BYTES = 1 << 20


def is_zip(head: bytes) -> bool:
    """Say whether `head` starts a zip file, an empty one included."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_gzip(head: bytes) -> bool:
    """Say whether `head` starts gzipped data."""
    return head.startswith(_GZIP_MAGIC)


def is_tar(head: bytes) -> bool:
    """Say whether `head`, at least one block of 512 bytes, starts a tar file, an empty one included."""
    block = head[:TAR_BLOCK]
    if len(block) < TAR_BLOCK:
        return False
    if not any(block):
        return True
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzipped `pieces` hold, at most 1 MiB at a time, and b"" where a piece gave nothing.

    Further gzip members are read on, what follows the last one is consumed and dropped, as gzip does. Raises
    BadRequest where the data is broken or ends early.
    """
    inflater = zlib.decompressobj(_GZIP_WBITS)
    pending, trailing = b"", False
    for piece in pieces:
        for start in range(0, len(piece), _INPUT_BYTES):
            if trailing:
                break
            pending += piece[start : start + _INPUT_BYTES]
            while pending:
                if inflater.eof:
                    if len(pending) < len(_GZIP_MAGIC) and _GZIP_MAGIC.startswith(pending):
                        break
                    if not is_gzip(pending):
                        pending, trailing = b"", True
                        break
                    inflater = zlib.decompressobj(_GZIP_WBITS)
                try:
                    yield inflater.decompress(pending, _OUTPUT_BYTES)
                except zlib.error:
                    raise errors.BadRequest("The gzipped data is broken; compress and send it again.") from None
                pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        yield b""
    while not inflater.eof:
        # What the input gave beyond the last 1 MiB can still sit in zlib's window.
        rest = inflater.decompress(b"", _OUTPUT_BYTES)
        if not rest and not inflater.eof:
            raise errors.BadRequest("The gzipped data ends early; send it again.")
        yield rest


def without_gzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `pieces`, decompressed where they are a gzipped tar; anything else, gzipped or not, as it came.

    Raises BadRequest where gzipped data is broken.
    """
    source = iter(pieces)
    held: list[bytes] = []
    head = b""
    while len(head) < len(_GZIP_MAGIC) and (piece := next(source, None)) is not None:
        held.append(piece)
        head += piece
    if not is_gzip(head):
        return chain(held, source)
    unread = iter(list(held))
    probing = True

    def recorded() -> Iterator[bytes]:
        yield from unread
        for piece in source:
            if probing:
                held.append(piece)
            yield piece

    inflated = gunzip(recorded())
    start = bytearray()
    for piece in inflated:
        start += piece
        if len(start) >= TAR_BLOCK or sum(map(len, held)) > _PROBE_BYTES:
            break
    probing = False
    if is_tar(bytes(start)):
        held.clear()
        return chain([bytes(start)], inflated)
    return chain(held, source)
