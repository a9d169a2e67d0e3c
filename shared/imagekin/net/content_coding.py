"""Removes the content codings of a web server's body, in bounded pieces, as far as the bytes confirm them.

Servers announce codings that they did not apply, and names that are not codings (`UTF-8`, `none`, `aws-chunked`, which
S3 keeps from an upload); the start of a body shows what it is. Codings are those of RFC 9110, 8.4.1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain

from imagekin import errors, formats

_GZIP = frozenset({"gzip", "x-gzip"})
_ZLIB = frozenset({"deflate"})
# Nobody asked for these, and nothing here undoes them.
_UNASKED = frozenset({"br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_MOST_CODINGS = 4
_OUTPUT_BYTES = 1 << 18
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WBITS, _ZLIB_WBITS, _RAW_WBITS = 31, 15, -15


def decoded(pieces: Iterator[bytes], header: str) -> Iterator[bytes]:
    """Yield a body without the codings of its Content-Encoding `header`; unknown ones count as identity.

    Raises FetchFailed if the body is cut off or broken, or compressed in a way that was not asked for.
    """
    codings = [name.strip().lower() for name in header.split(",")]
    applied = [name for name in codings if name in _GZIP | _ZLIB | _UNASKED]
    if len(applied) > _MOST_CODINGS:
        raise errors.FetchFailed("The server compresses its answer over and over.")
    for name in reversed(applied):
        pieces = _without(name, pieces)
    return pieces


def _without(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= formats.HEAD_BYTES:
            break
    rest = chain((head,), pieces)
    if not head or formats.looks_like_image(head):
        yield from rest
    elif name in _UNASKED:
        raise errors.FetchFailed(f"The server compresses its answer by {name}, for which it was not asked.")
    elif head.startswith(_GZIP_MAGIC):
        yield from _inflated(rest, _GZIP_WBITS)
    elif _is_zlib(head):
        yield from _inflated(rest, _ZLIB_WBITS)
    elif name in _ZLIB:
        yield from _inflated(rest, _RAW_WBITS)
    else:
        yield from rest


def _is_zlib(head: bytes) -> bool:
    """Tell the header of zlib (RFC 1950, 2.2), which servers leave out or not."""
    return head[0] & 0x0F == 8 and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0


def _inflated(pieces: Iterator[bytes], wbits: int) -> Iterator[bytes]:
    """Yield what compressed pieces hold, one gzip member after the other; what follows the last is left out."""
    inflater = zlib.decompressobj(wbits)
    try:
        for piece in pieces:
            pending = piece
            while pending or inflater.unconsumed_tail:
                if inflater.eof:
                    if wbits != _GZIP_WBITS or not pending.startswith(_GZIP_MAGIC[: len(pending)]):
                        return
                    inflater = zlib.decompressobj(wbits)
                yield inflater.decompress(pending, _OUTPUT_BYTES)
                pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        while not inflater.eof:
            more = inflater.decompress(b"", _OUTPUT_BYTES)
            if not more:
                break
            yield more
    except zlib.error:
        raise errors.FetchFailed("The server's answer cannot be decompressed.") from None
    if not inflater.eof:
        raise errors.FetchFailed("The server's answer is cut off.")
