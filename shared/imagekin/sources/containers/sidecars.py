"""Files beside an image that say something about it: `NAME.json` and `NAME.txt` beside `NAME.jpg`.

Shards of img2dataset and webdataset have them next to each other, other archives anywhere. So the members of an archive
are looked at in blocks: files in one block belong together, in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from imagekin import errors
from imagekin.schemas import json_values
from imagekin.sources.base import Entry, Pace

MAX_BYTES = 1 << 16
"""How large such a file may be."""

CAPTION = "caption"
"""The field that the text of `NAME.txt` becomes; img2dataset gives it the same name in `NAME.json`."""

_SUFFIXES = (".json", ".txt")
_BLOCK_MEMBERS = 1024
_BLOCK_KEY_CHARS = 1 << 18
# A block ends between two names and not among the files of one, unless these have no end.
_MOST_OF_ONE_NAME = 64


class Found(NamedTuple):
    """A member of an archive: what it is to a job, if anything, and from where the archive is read on after it.

    `ref` says where the bytes of a regular member are, `size` of them.
    """

    entry: Entry | None
    after: Sequence[int]
    ref: dict[str, Any] | None = None
    size: int = 0


class Beside:
    """The sidecars in a block of members, by the name that they share with an image."""

    def __init__(self, block: Sequence[Found]) -> None:
        by_name: dict[str, dict[str, Found]] = {}
        for found in block:
            if (named := _sidecar(found)) is not None:
                by_name.setdefault(named[0], {}).setdefault(named[1], found)
        entries = (found.entry for found in block if found.entry is not None and not found.entry.ignored)
        images = {name for entry in entries for name in _names(entry.key)} if by_name else set()
        self._by_name = {name: files for name, files in by_name.items() if name in images}

    def of(self, key: str) -> dict[str, Found]:
        """Return the sidecars of the image with this key, by their suffix."""
        for name in _names(key) if self._by_name else ():
            if name in self._by_name:
                return self._by_name[name]
        return {}

    def suffix_of(self, found: Found) -> str | None:
        """Return the suffix of a member that is a sidecar of an image, or None."""
        named = _sidecar(found) if self._by_name else None
        if named is None or self._by_name.get(named[0], {}).get(named[1]) is not found:
            return None
        return named[1]


def blocks(members: Iterator[Found | None]) -> Iterator[list[Found] | None]:
    """Yield the members in blocks, and None for a pause while one is being read.

    What came before an error is a block, too, before the error is raised.
    """
    block: list[Found] = []
    chars, name, run = 0, "", 0
    pace = Pace()
    try:
        for found in members:
            if found is None or pace.due():
                yield None
            if found is None:
                continue
            before, name = name, _group(found.entry.key) if found.entry is not None else ""
            run = run + 1 if name == before else 1
            full = len(block) >= _BLOCK_MEMBERS or chars >= _BLOCK_KEY_CHARS
            if full and (run == 1 or run > _MOST_OF_ONE_NAME):
                yield block
                block, chars, run = [], 0, 1
            block.append(found)
            chars += len(name)
    except errors.ImagekinError:
        yield block
        raise
    yield block


def metadata(suffix: str, data: bytes) -> dict[str, Any]:
    """Return what a sidecar says; raises ValueError, in words, where it is not what its suffix says."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"It is not UTF-8: {error.reason} at byte {error.start}.") from None
    if suffix == ".json":
        # Python writes NaN where a column has no value
        return json_values.load(text, constant=lambda _: None)
    json_values.check(text)
    return {CAPTION: text.strip()} if text.strip() else {}


def _sidecar(found: Found) -> tuple[str, str] | None:
    """Return the name and the suffix of a file that may be one."""
    if found.entry is None or found.ref is None:
        return None
    key = found.entry.key
    suffix = next((suffix for suffix in _SUFFIXES if key[-len(suffix) :].lower() == suffix), None)
    return None if suffix is None else (key[: -len(suffix)], suffix)


def _names(key: str) -> tuple[str, str]:
    """Return the names that an image's sidecars may have: without its suffix, or up to the first dot (webdataset)."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + (name.rpartition(".")[0] or name), _group(key)


def _group(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.partition(".")[0]
