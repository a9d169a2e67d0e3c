"""Many posted images as one stored zip, so that workers read them like any archive."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator
from types import TracebackType
from typing import IO

from imagekin import errors
from imagekin.schemas import keys
from imagekin.uploads import files
from imagekin_api.http import multipart

FILENAME = "images.zip"
# Zip knows no earlier date; with a fixed one the same images make the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


class Pack:
    """A zip in a temporary file, its members uncompressed and named by their keys."""

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] | None = None
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> Pack:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zip is not None:
            # closing writes the directory, for nobody; this closes without
            self._zip.fp = None
        if self._file is not None:
            # what is still to be written may find no room; it is written for nobody
            with contextlib.suppress(OSError):
                self._file.close()

    def add(self, part: multipart.Part) -> None:
        """Add an image as it arrives from the socket.

        Raises InvalidKey for a file name that cannot be a key, Unavailable if the temporary folder is full.
        """
        archive = self._opened()
        member = zipfile.ZipInfo(_key(part, self.count), _DATE)
        with _room(), archive.open(member, "w", force_zip64=True) as sink:
            while piece := part.read():
                sink.write(piece)
        # zipfile warns of a name that comes twice; here the later one becomes an item that failed
        archive.NameToInfo.pop(member.filename, None)
        self.count += 1

    def finish(self) -> IO[bytes]:
        """Write the directory and return the file, at its start; raises Unavailable as `add` does."""
        archive, file = self._opened(), self._file
        assert file is not None
        with _room():
            archive.close()
            file.seek(0)
        return file

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:
            with _room():
                self._file = tempfile.TemporaryFile(prefix="imagekin-")  # noqa: SIM115 - closed in __exit__
            self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        return self._zip


@contextlib.contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Python calls a temporary folder missing where it cannot write into it
        if not files.is_full(error) and not isinstance(error, FileNotFoundError):
            raise
        raise errors.Unavailable(
            "The API's temporary folder has no room for these images; free some space, or send them as an archive."
        ) from error


def _key(part: multipart.Part, index: int) -> str:
    try:
        return keys.normalize(part.filename or "")
    except errors.InvalidKey as error:
        pointer = {"pointer": f"/images/{index}", "detail": error.detail}
        raise errors.InvalidKey(
            f"The file name of image {index} cannot be a key: {error.detail}", errors=[pointer]
        ) from None
