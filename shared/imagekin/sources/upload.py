"""An upload as a source: a zip, a tar or one image, by its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from imagekin import archive_kinds, errors, formats
from imagekin.schemas import keys
from imagekin.settings import Settings
from imagekin.sources.base import Entry, Fault, Source, text_field
from imagekin.sources.containers import zip as zip_source
from imagekin.sources.containers.blob import Blob
from imagekin.sources.containers.entry import check_size
from imagekin.sources.containers.tar import Tar
from imagekin.uploads import unpack
from imagekin.uploads.files import Storage

_ACCEPTED = "send a zip, a tar, a tar.gz or one image (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF)"


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that `spec` names an upload; raises InvalidRequest."""
    text_field(spec, "upload_id")


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the upload at `path` in storage; its type is detected from its content.

    `filename` is the client's name for it, or null; `named`: it is an archive of which every member is an item. Raises
    UploadExpired if it is gone, SourceUnreadable if it is nothing that imagekin reads.
    """
    path = text_field(spec, "path")
    blob = Blob(partial(storage.open, path))
    try:
        return _by_content(
            blob, spec.get("filename") or text_field(spec, "upload_id"), settings, bool(spec.get("named"))
        )
    except BaseException:
        blob.close()
        raise


def _by_content(blob: Blob, name: str, settings: Settings, named: bool) -> Source:
    head = blob.read_at(0, unpack.TAR_BLOCK)
    if not head:
        raise errors.SourceUnreadable(f"The upload is empty; {_ACCEPTED}.")
    if formats.sniff(head) is not None:
        return Single(blob, name, settings)
    if unpack.is_zip(head):
        return zip_source.Zip(blob, settings, named=named)
    if unpack.is_tar(head):
        return Tar(blob, settings, named=named)
    if formats.looks_like_image(blob.read_at(0, formats.HEAD_BYTES)):
        return Single(blob, name, settings)
    if unpack.is_gzip(head):
        raise errors.SourceUnreadable(f"The upload is gzipped, but not a tar; {_ACCEPTED}.")
    if (kind := archive_kinds.unread(head)) is not None:
        raise errors.SourceUnreadable(archive_kinds.refusal("The upload", kind))
    if zip_source.has_directory(blob):
        return zip_source.Zip(blob, settings)
    raise errors.SourceUnreadable(f"The upload is neither an archive nor an image that imagekin reads; {_ACCEPTED}.")


class Single:
    """An upload that is one image; its key is the client's file name."""

    def __init__(self, blob: Blob, name: str, settings: Settings) -> None:
        self._blob = blob
        self._key = keys.harmless(name)
        self._max_bytes = settings.max_image_bytes

    def entries(self, cursor: Any | None = None) -> Iterator[Entry]:
        """Yield the image."""
        if cursor is None:
            yield Entry(self._key, {}, 1, error=self._fault())

    def read(self, ref: dict[str, Any]) -> bytes:
        """Return the image's bytes; raises EmptyFile, ImageTooLarge or DecodeError."""
        check_size(self._blob.size, self._max_bytes)
        return self._blob.read_at(0, self._blob.size)

    def close(self) -> None:
        """Close the stored file."""
        self._blob.close()

    def _fault(self) -> Fault | None:
        try:
            check_size(self._blob.size, self._max_bytes)
        except errors.ItemError as error:
            return Fault(error.code, error.detail)
        return None
