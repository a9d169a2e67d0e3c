"""A location behind an fsspec URL (`s3://bucket/prefix`) below the source roots, as a source.

What an operator has not named as a root is never connected to, and nothing but protocol and path is taken out of the
URL: credentials and endpoints come from the worker's own environment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import fsspec
from fsspec.asyn import AsyncFileSystem

from imagekin import errors, formats
from imagekin.left_out import LeftOut
from imagekin.net import fetch
from imagekin.settings import LOCAL_PROTOCOLS, Settings, local_path
from imagekin.sources import folder, ignored, names
from imagekin.sources.base import Entry, Fault, Pause, Source, text_field
from imagekin.sources.containers.entry import check_size
from imagekin.sources.listing import LIST_S, Found, Listing, S3Listing, Tree
from imagekin.uploads.files import Storage

_ALIASES = {"s3a": "s3", "gcs": "gs"}
# They go wherever a stranger points them; addresses are fetched by the sources that check where they lead.
_ADDRESSES = ("http", "https", "ftp", "data")


class Place(NamedTuple):
    """An fsspec URL taken apart: its protocol, and the parts of its path, the bucket or host first."""

    protocol: str
    parts: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"{self.protocol}://{'/'.join(self.parts)}"

    def holds(self, other: Place) -> bool:
        """Return whether another place is this one or lies below it."""
        return self.protocol == other.protocol and other.parts[: len(self.parts)] == self.parts


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that the `url` lies below the source roots; raises SourceRefused. Nothing is connected to."""
    url = text_field(spec, "url")
    if path := local_path(url):
        folder.check({"type": "folder", "path": path}, settings)
    else:
        _allowed(url, settings)


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the location at `url`.

    Raises SourceRefused if it does not lie below the roots, SourceUnreadable if it cannot be reached.
    """
    url = text_field(spec, "url")
    if path := local_path(url):
        return folder.open_source({**spec, "type": "folder", "path": path}, storage, settings)
    fs, path = _connected(_allowed(url, settings))
    return Location(fs, path, settings, spec.get("prefix") or "")


class Location:
    """The files below a path of a remote file system; a key is a file's path below that, and begins with `prefix`."""

    def __init__(self, fs: Any, path: str, settings: Settings, prefix: str = "") -> None:
        self._fs = fs
        self._path = path.rstrip("/")
        self._settings = settings
        self._left_out = LeftOut(settings.left_out)
        self._max_bytes = settings.max_image_bytes
        self._archives = ignored.Archives("The location", "send each of them by itself")
        protocol = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._listing: Listing = (S3Listing if "s3" in protocol else Tree)(fs, self._path, prefix)

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield the files after `cursor`, the path of one; hidden files and files that are not images are ignored.

        Raises SourceUnreadable if the location cannot be listed.
        """
        found, images = self._listing.after(cursor), 0
        while (each := self._next(found)) is not None:
            if each.size is None:
                yield Pause(each.name)
                continue
            entry = self._entry(each.name, each.size)
            images += entry.ignored is None
            yield entry
        if cursor is None:
            self._archives.check(images)

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return a file's bytes; raises ItemNotFound, FetchFailed, ItemTimeout, EmptyFile, ImageTooLarge."""
        return _read(self._fs, f"{self._path}/{ref['p']}", self._settings)

    def close(self) -> None:
        """Do nothing: fsspec keeps what it has open for the next."""

    def _next(self, found: Iterator[Found]) -> Found | None:
        try:
            return next(found, None)
        except FileNotFoundError:
            raise errors.SourceUnreadable("There is nothing at this location.") from None
        except PermissionError:
            raise errors.SourceUnreadable("This worker may not list this location.") from None
        except TimeoutError:
            raise errors.SourceUnreadable(f"The location took longer than {LIST_S:g} s to be listed.") from None
        # each file system raises what it likes
        except Exception as error:
            raise errors.SourceUnreadable(f"The location cannot be listed: {_reason(error)}.") from error

    def _entry(self, name: str, size: int) -> Entry:
        key, fault = names.key_of(name)
        if (reason := self._reason(name, size)) is not None:
            return Entry(key, {}, name, ignored=reason)
        try:
            check_size(size, self._max_bytes)
        except errors.ItemError as error:
            fault = fault or Fault(error.code, error.detail)
        return Entry(key, {"p": name}, name, error=fault)

    def _reason(self, name: str, size: int) -> str | None:
        """Return why a file is ignored, or None."""
        if names.is_hidden(name):
            return ignored.HIDDEN
        if self._left_out.path(name):
            return ignored.LEFT_OUT
        if names.is_image(name):
            return None
        head = self._start_of(name) if size > 0 else b""
        self._archives.note(name, head)
        return None if formats.looks_like_image(head) else ignored.no_picture(head)

    def _start_of(self, name: str) -> bytes:
        try:
            return _head(self._fs, f"{self._path}/{name}", formats.HEAD_BYTES, self._settings)
        except errors.ItemError:
            return b""


class Remote:
    """Single files that a manifest names by their URLs, below the remote locations among IMAGEKIN_SOURCE_ROOTS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._roots = [place for root in settings.source_roots if local_path(root) is None and (place := _place(root))]

    def named(self, url: str) -> bool:
        """Return whether `url` is one of a location, not one on the web nor a path."""
        protocol, found, _ = url.partition("://")
        return bool(found) and protocol.isalnum() and protocol.lower() not in (*_ADDRESSES, *LOCAL_PROTOCOLS)

    def absolute(self, path: str) -> str | None:
        """Return the URL of a relative `path` where a remote location is the only root; None if it is not."""
        roots = self._roots if len(self._settings.source_roots) == 1 else []
        return f"{roots[0].url}/{path}" if roots and not path.startswith("/") else None

    def below(self, url: str) -> str:
        """Return the part of `url` below its root; all of it without a root."""
        place = _place(url)
        root = next((root for root in self._roots if place and root.holds(place)), None)
        return "/".join(place.parts[len(root.parts) :]) if root and place else url

    def read(self, url: str) -> bytes:
        """Return a file's bytes.

        Raises FetchRefused outside of the roots; ItemNotFound, FetchFailed, ItemTimeout, EmptyFile, ImageTooLarge.
        """
        try:
            fs, path = _connected(_allowed(url, self._settings))
        except errors.SourceRefused as error:
            raise errors.FetchRefused(error.detail) from None
        except errors.SourceUnreadable as error:
            raise errors.FetchFailed(error.detail) from error
        return _read(fs, path, self._settings)


def _connected(place: Place) -> tuple[Any, str]:
    """Return the file system of a place and its path there; raises SourceUnreadable if this worker cannot read it."""
    try:
        # what was listed once may have changed since
        fs, path = fsspec.url_to_fs(place.url, use_listings_cache=False)
    except ImportError as error:
        raise errors.SourceUnreadable(
            f"This worker cannot read {place.protocol}:// locations: {str(error)[:200]}"
        ) from error
    except ValueError as error:
        raise errors.SourceUnreadable(f"There are no locations of the kind {place.protocol}://.") from error
    return fs, str(path)


def _read(fs: Any, path: str, settings: Settings) -> bytes:
    data = _head(fs, path, settings.max_image_bytes + 1, settings)
    check_size(len(data), settings.max_image_bytes)
    return data


def _head(fs: Any, path: str, length: int, settings: Settings) -> bytes:
    with _item_errors():
        return fs.cat_file(path, start=0, end=length, **_limit(fs, settings))


def _limit(fs: Any, settings: Settings) -> dict[str, float]:
    return {"timeout": fetch.timeout_s(settings)} if isinstance(fs, AsyncFileSystem) else {}


@contextmanager
def _item_errors() -> Iterator[None]:
    """Make item errors of what goes wrong; each file system raises what it likes."""
    try:
        yield
    except FileNotFoundError:
        raise errors.ItemNotFound("There is no file at this address.") from None
    except TimeoutError:
        raise errors.ItemTimeout("The file took too long to read.") from None
    # each file system raises what it likes
    except Exception as error:
        raise errors.FetchFailed(f"The file cannot be read: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return text.rstrip(".")[:200]


def _allowed(url: str, settings: Settings) -> Place:
    place = _place(url)
    if (
        place is None
        or place.protocol in _ADDRESSES
        or not any(root.holds(place) for each in settings.source_roots if (root := _place(each)) is not None)
    ):
        raise errors.SourceRefused("The location lies outside of those that IMAGEKIN_SOURCE_ROOTS allows.")
    return place


def _place(url: str) -> Place | None:
    """Take a URL apart; None if it is more than a protocol and a plain path."""
    protocol, found, path = url.partition("://")
    protocol = protocol.lower()
    parts = tuple(path.rstrip("/").split("/"))
    # `::` chains protocols, `@` and `:` bring a user, a password or a port, `?` and `#` options
    if not found or not protocol.isalnum() or "::" in url or set("@:") & set(parts[0]) or set("?#\\") & set(path):
        return None
    if any(part in ("", ".", "..") for part in parts) or not path.isprintable():
        return None
    return Place(_ALIASES.get(protocol, protocol), parts)
