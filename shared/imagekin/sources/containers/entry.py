"""What the archives have in common: which of their members are items, and within which limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from imagekin import errors, formats
from imagekin.left_out import LeftOut
from imagekin.settings import Settings
from imagekin.sources import ignored, names
from imagekin.sources.base import Entry, Fault, Pause
from imagekin.sources.containers import sidecars
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.sidecars import Beside, Found


class Archive(ABC):
    """An archive in a stored file, read block by block of its members and never extracted.

    `named`: a client chose each member, so that each regular one is an item, of any name and type.
    """

    #: where the first member is, in the archive's own terms
    _start: Sequence[int]

    def __init__(self, blob: Blob, settings: Settings, *, named: bool = False) -> None:
        self._blob = blob
        self._named = named
        self._settings = settings
        self._left_out = LeftOut(settings.left_out)
        # what of it was met; an archive of archives is told apart from one of nothing
        self._images = 0
        self._archives = ignored.Archives("The archive", "unpack it and send each of them")

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield the members after `cursor`, each image with what its sidecars say.

        Directories are nothing, and sidecars part of their images; links to elsewhere, devices and the like, and what
        is not an image are ignored. A cursor is where a block begins, and how many of its members are done.
        Raises SourceUnreadable if there are too many members, or the archive as a whole is broken.
        """
        begin, given = list(self._start), 0
        if cursor is not None:
            begin = list(cursor[: len(begin)])
            given = cursor[len(begin)] if len(cursor) > len(begin) else 0
        from_start = cursor is None
        for block in sidecars.blocks(self._members(begin)):
            if block is None:
                # a block is told as a whole, so who goes on elsewhere begins it again
                yield Pause([*begin, given])
                continue
            for place, entry in self._entries(block, given):
                yield replace(entry, cursor=[*begin, place + 1])
            if block:
                begin, given = list(block[-1].after), 0
        if from_start:
            self._archives.check(self._images)

    @abstractmethod
    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a member's bytes; raises an ItemError."""

    @abstractmethod
    def _members(self, start: list[int]) -> Iterator[Found | None]:
        """Yield what the archive holds from `start` on, None for a pause; the entries' cursors are not looked at."""

    def _entries(self, block: list[Found], done: int) -> Iterator[tuple[int, Entry]]:
        """Yield the entries of a block except those that are `done`, each with its member's place in the block."""
        beside = Beside(block)
        usable: dict[int, bool] = {}
        for place, found in enumerate(block[done:], done):
            if (entry := found.entry) is None:
                continue
            if (suffix := beside.suffix_of(found)) is not None:
                if id(found) not in usable:
                    usable[id(found)] = self._said(suffix, found) is not None
                if not usable[id(found)]:
                    yield place, entry
                continue
            # what JSON says goes before the text beside it
            for suffix, file in () if entry.ignored else sorted(beside.of(entry.key).items(), reverse=True):
                said = self._said(suffix, file)
                usable[id(file)] = said is not None
                if said is not None:
                    entry = replace(entry, metadata={**(entry.metadata or {}), **said})
            yield place, entry

    def _said(self, suffix: str, found: Found) -> dict[str, Any] | None:
        """Return what a sidecar says, or None if it cannot be used."""
        if found.size > sidecars.MAX_BYTES or found.ref is None:
            return None
        try:
            return sidecars.metadata(suffix, self.read(found.ref) if found.size else b"")
        except (errors.ItemError, ValueError):
            return None

    def close(self) -> None:
        """Close the stored file."""
        self._blob.close()

    def _found(
        self,
        name: str,
        size: int,
        ref: dict[str, Any],
        after: Sequence[int],
        *,
        fault: Fault | None,
        head: Callable[[], bytes],
    ) -> Found:
        """Return a regular member; `head` reads the start of its data where the name does not tell."""
        key, refused = names.key_of(name)
        if self._named:
            fault = refused or fault or self._size_fault(size) or self._no_picture(name, head)
            return Found(Entry(key, ref, None, error=fault), after)
        if names.is_hidden(name):
            return Found(Entry(key, {}, None, ignored=ignored.HIDDEN), after)
        if self._left_out.path(key):
            return Found(Entry(key, {}, None, ignored=ignored.LEFT_OUT), after)
        if not (names.is_image(name) or formats.looks_like_image(start := head())):
            self._archives.note(key, start)
            reason = ignored.no_picture(start)
            return Found(Entry(key, {}, None, ignored=reason), after, ref if fault is None else None, size)
        self._images += 1
        return Found(Entry(key, ref, None, error=refused or fault or self._size_fault(size)), after)

    def _no_picture(self, name: str, head: Callable[[], bytes]) -> Fault | None:
        if names.is_image(name) or formats.looks_like_image(start := head()):
            return None
        return Fault.of(errors.UnsupportedFormat, formats.refusal(start))

    def _size_fault(self, size: int) -> Fault | None:
        try:
            self._check_size(size)
        except errors.ItemError as error:
            return Fault(error.code, error.detail)
        return None

    def _check_size(self, size: int) -> None:
        check_size(size, self._settings.max_image_bytes)

    def _check_count(self, count: int) -> None:
        if count > self._settings.max_archive_members:
            raise errors.SourceUnreadable(
                f"The archive has more than {self._settings.max_archive_members:,} members; split it up."
            )


def check_size(size: int, max_bytes: int) -> None:
    """Raise EmptyFile or ImageTooLarge if an image of `size` bytes is not to be read."""
    if size == 0:
        raise errors.EmptyFile
    if size > max_bytes:
        raise errors.ImageTooLarge(f"The file has {size:,} bytes; at most {max_bytes:,} are accepted.")
