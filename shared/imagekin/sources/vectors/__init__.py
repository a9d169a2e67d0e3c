"""Embeddings that were made elsewhere, or exported, as a source: an upload that is npz or Parquet, by its content."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from imagekin import errors
from imagekin.settings import Settings
from imagekin.sources.base import Source, text_field
from imagekin.sources.containers.blob import Blob
from imagekin.sources.vectors import npz, parquet
from imagekin.sources.vectors.table import Space
from imagekin.uploads import unpack
from imagekin.uploads.files import Storage

_ACCEPTED = "send an npz (numpy.savez) or a Parquet file, as an export gives them"


def check(spec: Mapping[str, Any], settings: Settings) -> None:
    """Check that `spec` names an upload; raises InvalidRequest."""
    text_field(spec, "upload_id")


def open_source(spec: Mapping[str, Any], storage: Storage, settings: Settings) -> Source:
    """Open the upload at `path` in storage; its vectors must be of the space `space_id` and have `dim` numbers.

    Raises UploadExpired if it is gone, SourceUnreadable if it is nothing of the kind.
    """
    space = Space(text_field(spec, "space_id"), spec["dim"])
    blob = Blob(partial(storage.open, text_field(spec, "path")))
    try:
        return _by_content(blob, space, settings)
    except BaseException:
        blob.close()
        raise


def _by_content(blob: Blob, space: Space, settings: Settings) -> Source:
    head = blob.read_at(0, unpack.TAR_BLOCK)
    if not head:
        raise errors.SourceUnreadable(f"The upload is empty; {_ACCEPTED}.")
    if unpack.is_zip(head):
        return npz.Npz(blob, space, settings)
    if head.startswith(parquet.MAGIC):
        return parquet.Parquet(blob, space)
    raise errors.SourceUnreadable(f"The upload is neither npz nor Parquet; {_ACCEPTED}.")
