"""Archives by their content, and gzip taken off a stream of bytes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from imagekin import errors

TAR_BLOCK = 512
_OCTAL = re.compile(rb"[0-7]*")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS = 31
_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 20
# Gzipped data that has not given a tar header after this much input is no tar that an honest program wrote.
_PROBE_BYTES = 1 << 20


class TarHeader(NamedTuple):
    """A tar header: the member's name in bytes, its type flag, the size of its data, and the name it links to."""

    name: bytes
    type: bytes
    size: int
    link: bytes


def is_zip(head: bytes) -> bool:
    """Return whether `head` starts a zip file, an empty one included."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


def is_gzip(head: bytes) -> bool:
    """Return whether `head` starts gzipped data."""
    return head.startswith(_GZIP_MAGIC)


def is_tar(head: bytes) -> bool:
    """Return whether `head`, at least one block of 512 bytes, starts a tar file, an empty one included."""
    block = head[:TAR_BLOCK]
    if len(block) < TAR_BLOCK:
        return False
    return not any(block) or tar_header(block) is not None


def tar_header(block: bytes) -> TarHeader | None:
    """Return a block of 512 bytes as a tar header (POSIX 1003.1, pax), or None if it is something else.

    tarfile's own
    parser takes five times as long for fields that are not read here.
    """
    checksum, size = _tar_number(block[148:156]), _tar_number(block[124:136])
    if len(block) != TAR_BLOCK or checksum is None or size is None:
        return None
    rest = block[:148] + block[156:]
    # Some old writers summed signed bytes.
    if checksum not in (total := sum(rest) + 8 * 32, total - 256 * len(_HIGH_BYTE.findall(rest))):
        return None
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return TarHeader(name, block[156:157], size, block[157:257].partition(b"\0")[0])


def _tar_number(field: bytes) -> int | None:
    """Return a number in octal digits, or in GNU's base 256; None if it is neither, or negative."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    return int(digits or b"0", 8) if _OCTAL.fullmatch(digits) else None


def gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzipped `pieces` hold, at most 1 MiB at a time, and b"" where a piece gave nothing.

    Further gzip members are read on, what follows the last one is consumed and dropped, as gzip does. Raises BadRequest
    if the data is broken or ends early.
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

    Raises BadRequest if gzipped data is broken.
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
