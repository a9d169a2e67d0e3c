"""A folder below the source roots, or one image file in it, as a source."""

# Strings throughout: a walk makes no objects for paths, and names that are no Unicode pass through.
# ruff: noqa: PTH112, PTH113, PTH119, PTH208

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from imagekin import errors, formats
from imagekin.left_out import LeftOut
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources import ignored, names
from imagekin.sources.base import Entry, Fault, Pace, Pause, Source, text_field
from imagekin.sources.containers.entry import check_size
from imagekin.sources.roots import Roots
from imagekin.uploads.files import Storage


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that `spec` names a folder or an image file below the roots, as `open_source` does."""
    _open(spec, settings)


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the folder or the image file at `path`, an absolute path on the machine that reads it.

    Raises SourceRefused if it does not lie below the roots, SourceUnreadable if it does not exist.
    """
    return _open(spec, settings)


def _open(spec: Mapping[str, Any], settings: Settings) -> Source:
    path = text_field(spec, "path")
    roots = Roots(settings)
    real = roots.resolve(path)
    if os.path.isdir(real):
        return Folder(real, roots, settings, spec.get("prefix") or "")
    if not os.path.isfile(real):
        raise errors.SourceUnreadable(f"There is no folder and no image file at {path!r}.")
    name = os.path.basename(path)
    if not names.is_image(name) and not formats.looks_like_image(_head(real, roots)):
        raise errors.SourceUnreadable(f"{path!r} is neither a folder nor an image; archives are uploaded.")
    return ImageFile(real, name, roots, settings, spec.get("prefix") or "")


class ImageFile:
    """One image file; its key is its name. Nothing, where that does not begin with `prefix`."""

    def __init__(self, path: str, name: str, roots: Roots, settings: Settings, prefix: str = "") -> None:
        self._path = path
        self._name = name
        self._prefix = prefix
        self._roots = roots
        self._max_bytes = settings.max_image_bytes

    def entries(self, cursor: Any | None = None) -> Iterator[Entry]:
        """Yield the image."""
        name = _text(self._name)
        if cursor is None and name.startswith(self._prefix):
            key, refused = names.key_of(name)
            yield Entry(key, {}, 1, error=refused)

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return the file's bytes; raises as `Roots.read` does."""
        return self._roots.read(self._path, self._max_bytes)

    def close(self) -> None:
        """Do nothing: nothing is held open."""


@dataclass(slots=True)
class _Level:
    """A folder on the way from the top to where the walk is, with the names in it that are still to come."""

    path: str
    prefix: str
    linked: bool
    names: Iterator[str]


class Folder:
    """A folder, walked in the order of its names; it holds one folder's names for each level of depth.

    Only what has a path below it that begins with `prefix` is in it.
    """

    def __init__(self, path: str, roots: Roots, settings: Settings, prefix: str = "") -> None:
        self._path = path
        self._roots = roots
        self._left_out = LeftOut(settings.left_out)
        self._max_bytes = settings.max_image_bytes
        self._prefix = prefix
        self._archives = ignored.Archives("The folder", "send each of them by itself")

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield the files after `cursor`; hidden folders and folders that are not entered count as one each.

        Links are followed to what lies below the roots. A linked folder is entered only from a folder that is not
        itself reached by a link, and not where the walk comes anyway: so no chain of links makes the walk endless.
        """
        levels = self._levels(_unpacked(cursor).split("/") if cursor is not None else [])
        pace, images = Pace(), 0
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop()
                if level.prefix and pace.due():
                    yield Pause(_packed(level.prefix.removesuffix("/")))
                continue
            below = _text(level.prefix + name)
            found = self._visit(level, name) if names.leads_to(below, self._prefix) else None
            if isinstance(found, _Level):
                levels.append(found)
            elif found is not None and below.startswith(self._prefix):
                images += found.ignored is None
                yield found
        if cursor is None:
            self._archives.check(images)

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a file's bytes; raises as `Roots.read` does."""
        return self._roots.read(f"{self._path}/{_unpacked(ref)}", self._max_bytes)

    def close(self) -> None:
        """Do nothing: nothing is held open."""

    def _levels(self, after: list[str]) -> list[_Level]:
        """Return the levels of a walk that continues after the path with the parts `after`."""
        try:
            levels = [self._level(self._path, "", False, after[:1])]
        except OSError as error:
            raise errors.SourceUnreadable(f"The folder cannot be read: {error.strerror}.") from error
        for depth, part in enumerate(after[:-1], 1):
            found = self._visit(levels[-1], part, after[depth : depth + 1])
            if not isinstance(found, _Level):
                break
            levels.append(found)
        return levels

    def _level(self, path: str, prefix: str, linked: bool, after: list[str]) -> _Level:
        listed = sorted(os.listdir(path))
        if after:
            del listed[: bisect_right(listed, after[0])]
        return _Level(path, prefix, linked, iter(listed))

    def _visit(self, level: _Level, name: str, after: list[str] | None = None) -> Entry | _Level | None:
        """Return the entry for `name`, or the level below it, from behind `after` on; None if it has gone."""
        path, relative = f"{level.path}/{name}", level.prefix + name
        linked = level.linked
        try:
            mode, size = _status(path)
            if stat.S_ISLNK(mode):
                path = os.path.realpath(path)
                if not self._may_follow(path, linked):
                    return self._ignored(relative, ignored.LINK)
                linked = linked or os.path.isdir(path)
                mode, size = _status(path)
        except FileNotFoundError:
            return None if path == f"{level.path}/{name}" else self._ignored(relative, ignored.LINK)
        except OSError as error:
            return self._failed(relative, error)
        # one part of a path, whatever it has in it: here a backslash parts nothing
        if name[0] == "." or name == names.RESOURCE_FORKS:
            return self._ignored(relative, ignored.HIDDEN)
        if self._is_left_out(name, relative):
            return self._ignored(relative, ignored.LEFT_OUT)
        if stat.S_ISDIR(mode):
            try:
                return self._level(path, relative + "/", linked, after or [])
            except FileNotFoundError:
                return None
            except OSError as error:
                return self._failed(relative, error)
        if not stat.S_ISREG(mode):
            return self._ignored(relative, ignored.SPECIAL)
        if not names.is_image(name) and not formats.looks_like_image(head := _head(path, self._roots)):
            entry = self._ignored(relative, ignored.no_picture(head))
            self._archives.note(entry.key, head)
            return entry
        return self._item(relative, size)

    def _is_left_out(self, name: str, relative: str) -> bool:
        return self._left_out.name(_text(name)) or self._left_out.path(_text(relative))

    def _may_follow(self, target: str, linked: bool) -> bool:
        if not self._roots.allow(target):
            return False
        if not os.path.isdir(target):
            return True
        return not (linked or _is_below(target, self._path) or _is_below(self._path, target))

    def _item(self, relative: str, size: int) -> Entry:
        key, fault = names.key_of(_text(relative))
        try:
            check_size(size, self._max_bytes)
        except errors.ItemError as error:
            fault = fault or Fault(error.code, error.detail)
        packed = _packed(relative)
        return Entry(key, packed, packed, error=fault)

    def _ignored(self, relative: str, reason: str) -> Entry:
        return Entry(names.key_of(_text(relative))[0], {}, _packed(relative), ignored=reason)

    def _failed(self, relative: str, error: OSError) -> Entry:
        fault = Fault.of(errors.FetchFailed, f"It cannot be read: {error.strerror}.")
        return Entry(names.key_of(_text(relative))[0], {}, _packed(relative), error=fault)


def _status(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_mode, found.st_size


def _head(path: str, roots: Roots) -> bytes:
    try:
        return roots.head(path, formats.HEAD_BYTES)
    except errors.ItemError:
        return b""


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _text(path: str) -> str:
    return keys.of_bytes(os.fsencode(path))


def _packed(path: str) -> dict[str, str]:
    """Put a path into JSON; one that is not UTF-8 goes in hex, since databases refuse lone surrogates."""
    raw = os.fsencode(path)
    try:
        return {"p": raw.decode()}
    except UnicodeDecodeError:
        return {"x": raw.hex()}


def _unpacked(packed: dict[str, str]) -> str:
    return packed["p"] if "p" in packed else os.fsdecode(bytes.fromhex(packed["x"]))
