"""An upload as a source: a zip, a tar or one image, by its content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from imagekin import archives, errors, formats
from imagekin.config import Settings
from imagekin.sources import zip as zip_source
from imagekin.sources.blob import Blob
from imagekin.sources.interface import Source, text_field
from imagekin.sources.single import Single
from imagekin.sources.tar import Tar
from imagekin.storage import Storage

_ACCEPTED = "send a zip, a tar, a tar.gz or one image (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF)"


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that `spec` names an upload; raises InvalidRequest."""
    text_field(spec, "upload_id")


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the upload at `path` in storage by its content; `filename` is what the client called it, or null.

    Raises UploadExpired where it is gone, SourceUnreadable where it is nothing that imagekin reads.
    """
    path = text_field(spec, "path")
    blob = Blob(partial(storage.open, path))
    try:
        return _by_content(blob, spec.get("filename") or text_field(spec, "upload_id"), settings)
    except BaseException:
        blob.close()
        raise


def _by_content(blob: Blob, name: str, settings: Settings) -> Source:
    head = blob.read_at(0, archives.TAR_BLOCK)
    if not head:
        raise errors.SourceUnreadable(f"The upload is empty; {_ACCEPTED}.")
    if formats.sniff(head) is not None:
        return Single(blob, name, settings)
    if archives.is_zip(head):
        return zip_source.Zip(blob, settings)
    if archives.is_tar(head):
        return Tar(blob, settings)
    if archives.is_gzip(head):
        raise errors.SourceUnreadable(f"The upload is gzipped, but not a tar; {_ACCEPTED}.")
    if zip_source.has_directory(blob):
        return zip_source.Zip(blob, settings)
    raise errors.SourceUnreadable(f"The upload is neither an archive nor an image that imagekin reads; {_ACCEPTED}.")
