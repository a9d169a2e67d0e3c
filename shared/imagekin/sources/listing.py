"""What lies below a path of a remote file system, in order, from behind any name on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from fsspec.asyn import AsyncFileSystem

from imagekin.sources import names
from imagekin.sources.base import Pace

LIST_S = 30.0
"""How long one request for a list may take."""


PAGE = 1000
"""How many objects one request lists."""


class Found(NamedTuple):
    """A file: its path below the location, and its size in bytes; None for the last of many that are not files."""

    name: str
    size: int | None


class Listing(Protocol):
    """A way to list."""

    def after(self, name: str | None) -> Iterator[Found]:
        """Yield the files that come after the one of that name; raises what the file system raises."""
        ...


class S3Listing:
    """The objects below a path whose names begin with `prefix`, a thousand at a time, in the order of their bytes."""

    def __init__(self, fs: Any, path: str, prefix: str) -> None:
        self._fs = fs
        self._bucket, _, path = path.partition("/")
        self._top = path + "/" if path else ""
        self._prefix = self._top + prefix

    def after(self, name: str | None) -> Iterator[Found]:
        """Yield the objects after that name, those that only stand for folders left out."""
        last = self._top + name if name is not None else None
        pace = Pace()
        while True:
            start = {} if last is None else {"StartAfter": last}
            page = self._fs.call_s3(
                "list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=PAGE, timeout=LIST_S, **start
            )
            for each in page.get("Contents", ()):
                last = each["Key"]
                if not last.endswith("/"):
                    yield Found(last.removeprefix(self._top), each["Size"])
                elif pace.due():
                    yield Found(last.removeprefix(self._top), None)
            if not page.get("IsTruncated"):
                return


@dataclass(slots=True)
class _Level:
    """A folder on the way to where the walk is, with what is still to come in it: (name, is a folder, size)."""

    prefix: str
    left: Iterator[tuple[str, bool, int]]


class Tree:
    """The files of any file system, folder by folder, whose paths below the top begin with `prefix`.

    It holds one folder's names for each level of depth.
    """

    def __init__(self, fs: Any, path: str, prefix: str) -> None:
        self._fs = fs
        self._path = path
        self._prefix = prefix
        self._limit = {"timeout": LIST_S} if isinstance(fs, AsyncFileSystem) else {}

    def after(self, name: str | None) -> Iterator[Found]:
        """Yield the files after that name, each folder's in the order of their names."""
        levels = self._levels(name.split("/") if name is not None else [])
        pace = Pace()
        while levels:
            level = levels[-1]
            part, is_folder, size = next(level.left, ("", False, 0))
            if not part:
                levels.pop()
                if level.prefix and pace.due():
                    yield Found(level.prefix.removesuffix("/"), None)
            elif is_folder and names.leads_to(level.prefix + part, self._prefix):
                levels.append(self._level(f"{level.prefix}{part}/", ""))
            elif not is_folder and (level.prefix + part).startswith(self._prefix):
                yield Found(level.prefix + part, size)

    def _levels(self, after: list[str]) -> list[_Level]:
        prefix, levels = "", []
        for part in after or [""]:
            levels.append(self._level(prefix, part))
            prefix += part + "/"
        return levels

    def _level(self, prefix: str, after: str) -> _Level:
        path = f"{self._path}/{prefix}".rstrip("/")
        listed = self._fs.ls(path, detail=True, **self._limit)
        parts = sorted(
            (_name(each["name"]), each["type"] == "directory", each.get("size") or 0)
            for each in listed
            # some list the folder itself, or names that end in a slash; either would be walked without end
            if each["name"].strip("/") != path.strip("/") and not each["name"].endswith("/")
        )
        return _Level(prefix, iter(parts[bisect_right(parts, after, key=lambda part: part[0]) :]))


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
