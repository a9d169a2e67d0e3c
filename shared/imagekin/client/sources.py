"""What `embed` was given: addresses, a location, a manifest, an archive or pictures."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagekin import archive_kinds, errors, schemas
from imagekin.client import bodies, uploads
from imagekin.client.uploads import Folder, Listing

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
MANIFESTS = (".jsonl", ".ndjson", ".csv", ".tsv")

Local = str | os.PathLike[str]
Given = Local | Mapping[str, Any] | schemas.UrlItem | Iterable[Local | Mapping[str, Any] | schemas.UrlItem]


@dataclass(frozen=True)
class Urls:
    items: list[dict[str, Any]]

    def manifest(self) -> bytes:
        """Write the addresses as a manifest (JSONL), for more of them than one request may have."""
        return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in self.items).encode()


@dataclass(frozen=True)
class Location:
    url: str
    exclude: Sequence[str] = ()
    prefixes: Sequence[str] = ()


@dataclass(frozen=True)
class Manifest:
    path: Path
    prefixes: Sequence[str] = ()


@dataclass(frozen=True)
class Archive:
    path: Path
    exclude: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    path: Path


One = Urls | Location | Manifest | Archive | Picture | Folder | Listing


@dataclass(frozen=True)
class Several:
    """Archives and manifests, each a job of its own, and the pictures and folders that were given with them."""

    sources: list[One]


Source = One | Several


def resolve(given: Given, exclude: Sequence[str] = (), prefixes: Sequence[str] = ()) -> Source:
    """Return what a source is; raises `FileNotFoundError`, `EmptySource`, and `InvalidRequest` for a mixed list.

    Raises InvalidRequest, too, for prefixes of anything but one location or one manifest, and for an empty one.
    """
    source = _resolved(given, exclude)
    if not prefixes:
        return source
    if not isinstance(source, Location | Manifest):
        raise errors.InvalidRequest("A prefix chooses from one location or one manifest; this is neither.")
    if "" in prefixes:
        raise errors.InvalidRequest("An empty prefix chooses everything; leave it out.")
    return replace(source, prefixes=tuple(dict.fromkeys(prefixes)))


def _resolved(given: Given, exclude: Sequence[str]) -> Source:
    if isinstance(given, str | os.PathLike):
        return _one(given, exclude)
    if isinstance(given, Mapping | schemas.UrlItem):
        return Urls([_url_item(given)])  # pyright: ignore[reportArgumentType]
    entries = list(given)
    if not entries:
        raise errors.EmptySource("The list of pictures is empty.")
    if len(entries) == 1 and isinstance(entries[0], str | os.PathLike):
        return _one(entries[0], exclude)
    web = [
        entry for entry in entries if not isinstance(entry, str | os.PathLike) or _scheme(entry) in ("http", "https")
    ]
    if len(web) == len(entries):
        return Urls([_url_item(entry) for entry in entries])
    if web:
        raise errors.InvalidRequest(
            "A list is either of files and folders or of addresses; embed them one after another."
        )
    paths = [_existing(Path(entry)) for entry in entries if isinstance(entry, str | os.PathLike)]
    alone = [path for path in paths if path.name.lower().endswith(ARCHIVES + MANIFESTS) and not path.is_dir()]
    if not alone:
        return Listing(paths, exclude)
    rest = [path for path in paths if path not in alone]
    return Several([_one(path, exclude) for path in dict.fromkeys(alone)] + ([Listing(rest, exclude)] if rest else []))


def check(source: Source, upload: bool | None = None) -> None:
    """Check what can be said before anything is made or sent.

    A folder that is not to be uploaded is the server's to look into, and to refuse.

    Raises EmptySource if there is no picture, InvalidRequest if a file is not a regular one or is an archive of a
    kind that is not read, OSError if it cannot be read.
    """
    match source:
        case Several():
            for each in source.sources:
                check(each, upload)
        case Folder() if upload is False:
            pass
        case Folder() | Listing():
            if next(iter(source), None) is None:
                raise uploads.no_picture(source)
        case Picture() | Archive() | Manifest():
            if not source.path.is_file():
                raise errors.InvalidRequest(f"{source.path} is not a regular file.")
            with source.path.open("rb") as file:
                kind = archive_kinds.unread(file.read(archive_kinds.HEAD_BYTES))
            if kind is not None:
                raise errors.InvalidRequest(archive_kinds.refusal(str(source.path), kind))


def _one(given: Local, exclude: Sequence[str]) -> One:
    scheme = _scheme(given)
    if scheme in ("http", "https"):
        return Urls([{"url": str(given)}])
    if scheme:
        return Location(str(given), exclude)
    if given == "":
        # as a path this is the current folder, and mostly a script's variable that was not set
        raise errors.InvalidRequest("An empty text is not a path; `.` is the current folder.")
    path = _existing(Path(given))
    if path.is_dir():
        return Folder(path, exclude=exclude)
    name = path.name.lower()
    if name.endswith(MANIFESTS):
        return Manifest(path)
    return Archive(path, exclude) if name.endswith(ARCHIVES) else Picture(path)


def _scheme(given: Local) -> str | None:
    """Return the scheme of an address; two letters at least, as one is a drive on Windows."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", given) if isinstance(given, str) else None
    return match[1].lower() if match else None


def _existing(path: Path) -> Path:
    path = bodies.expanded(path)
    path.stat()
    return path


def _url_item(entry: Local | Mapping[str, Any] | schemas.UrlItem) -> dict[str, Any]:
    if isinstance(entry, schemas.UrlItem):
        return entry.model_dump(mode="json", exclude_none=True)
    return dict(entry) if isinstance(entry, Mapping) else {"url": str(entry)}
