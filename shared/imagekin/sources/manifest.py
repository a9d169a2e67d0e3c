"""A manifest as a source: an upload that names images, each by its address or by its path below the source roots.

Below a root that is a location, an image may be named by its URL there, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from imagekin import errors
from imagekin.net.fetch import Fetcher
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources import names
from imagekin.sources.base import Entry, Fault, Pace, Pause, Source, text_field
from imagekin.sources.containers.blob import Blob
from imagekin.sources.location import Remote
from imagekin.sources.records import Record, records
from imagekin.sources.roots import Roots
from imagekin.uploads.files import Storage

FIELDS = frozenset({"key", "url", "path", "metadata"})


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that `spec` names an upload; raises InvalidRequest."""
    text_field(spec, "upload_id")


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the manifest at `path` in storage.

    Raises UploadExpired if it is gone, SourceUnreadable if it is neither JSONL nor CSV.
    """
    blob = Blob(partial(storage.open, text_field(spec, "path")))
    try:
        return Manifest(blob, settings, spec.get("prefix") or "")
    except BaseException:
        blob.close()
        raise


class Manifest:
    """A list of images that lie elsewhere; a cursor is [byte, line, records up to there].

    Of images, only those are in it whose keys begin with `prefix`; of lines that cannot be used, all.
    """

    def __init__(self, blob: Blob, settings: Settings, prefix: str = "") -> None:
        self._blob = blob
        self._prefix = prefix
        self._pace = Pace()
        self._records = records(blob)
        self._roots = Roots(settings)
        self._remote = Remote(settings)
        self._fetcher = Fetcher(settings)
        self._max_bytes = settings.max_image_bytes
        self._max_count = settings.max_archive_members

    def entries(self, cursor: Any | None = None) -> Iterator[Entry | Pause]:
        """Yield what comes after `cursor`, a line that makes no sense as a failed item.

        Raises SourceUnreadable if there are too many, or if a line is too long to be one.
        """
        at, line, count = cursor or (0, 1, 0)
        for record in self._records.read(at, line):
            if record.fields is None and record.reason is None:
                yield Pause([*record.cursor, count])
                continue
            count += 1
            if count > self._max_count:
                raise errors.SourceUnreadable(f"The manifest has more than {self._max_count:,} entries; split it up.")
            entry = self._entry(record, [*record.cursor, count])
            if not entry.ref or entry.key.startswith(self._prefix):
                yield entry
            elif self._pace.due():
                yield Pause(entry.cursor)

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return the bytes at an address or a path; raises as `Fetcher.fetch`, `Remote.read` and `Roots.read` do."""
        if (url := ref.get("u")) is not None:
            return self._remote.read(url) if self._remote.named(url) else self._fetcher.fetch(url)
        path = self._roots.absolute(ref["p"])
        try:
            return self._roots.read(path, self._max_bytes)
        except errors.ItemNotFound:
            # as Windows writes it; a name may have a backslash in it here, too
            if "\\" not in path:
                raise
            return self._roots.read(path.replace("\\", "/"), self._max_bytes)

    def close(self) -> None:
        """Close the manifest and all connections."""
        self._blob.close()
        self._fetcher.close()

    def _entry(self, record: Record, cursor: list[int]) -> Entry:
        fields = record.fields or {}
        reason = record.reason or _reason(fields)
        if reason is not None:
            key = next((fields[name] for name in ("key", "url", "path") if _is_text(fields.get(name))), None)
            fault = Fault.of(errors.DecodeError, f"Line {record.line} of the manifest cannot be used. {reason}")
            return Entry(keys.harmless(key or f"line {record.line}"), {}, cursor, error=fault)
        metadata = fields.get("metadata")
        if (url := fields.get("url")) is not None:
            key, fault = url_key(fields.get("key"), url)
            return Entry(key, {"u": url}, cursor, error=fault, metadata=metadata)
        path = fields["path"]
        if (url := self._url(path)) is not None:
            key, fault = names.key_of(fields.get("key") or self._remote.below(url))
            return Entry(key, {"u": url}, cursor, error=fault, metadata=metadata)
        key, fault = names.key_of(fields.get("key") or self._roots.below(path))
        return Entry(key, {"p": path}, cursor, error=fault, metadata=metadata)

    def _url(self, path: str) -> str | None:
        """Return the URL of a path below a remote location."""
        return path if self._remote.named(path) else self._remote.absolute(path.replace("\\", "/").removeprefix("./"))


def url_key(key: str | None, url: str) -> tuple[str, Fault | None]:
    """Return the key for an address, with the fault where the given one cannot be one; without one, the address is."""
    if key is not None:
        return names.key_of(key)
    try:
        return keys.normalize(url), None
    except errors.InvalidKey:
        return keys.harmless(url), None


def _reason(fields: dict[str, Any]) -> str | None:
    """Say why the fields are not those of an image, or nothing."""
    if not fields.keys() <= FIELDS:
        unknown = min(fields.keys() - FIELDS)
        return f"It has the unknown field {unknown!r}; there are `key`, `url` or `path`, `metadata`."
    for name in ("key", "url", "path"):
        if fields.get(name) is not None and not _is_text(fields[name]):
            return f"Its `{name}` is not text."
    if (fields.get("url") is None) == (fields.get("path") is None):
        return "It needs either a `url` or a `path`."
    if not isinstance(fields.get("metadata"), dict | None):
        return "Its `metadata` is not a JSON object."
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
