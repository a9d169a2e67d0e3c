"""Files of the nearest rows of every row, beside those of matrices: one for each collection and view.

A file names the rows that it is of by their digest, and is read only for these; zip's checksums tell a damaged one.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

log = structlog.get_logger()

SUFFIX = ".nearest"


def read(path: Path, digest: Callable[[], str]) -> tuple[NDArray[np.int32], NDArray[np.float32]] | None:
    """Return the indices and cosines (n, k) that a file has, None if it is missing, damaged, or of other rows."""
    try:
        with np.load(path, allow_pickle=False) as found:
            digested = found["digest"].item()
            places, cosines = found["places"], found["cosines"]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as damage:
        log.warning("nearest_file_damaged", file=path.name, reason=str(damage))
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    if digested != digest():
        return None
    # the oldest are those that were not read for longest
    with suppress(OSError):
        os.utime(path)
    return places, cosines


def write(path: Path, digest: str, places: NDArray[np.int32], cosines: NDArray[np.float32]) -> None:
    """Write indices and cosines (n, k) under another name and rename the file once it is whole, if there is room."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            np.savez(file, allow_pickle=False, digest=np.array(digest), places=places, cosines=cosines)
        part.replace(path)
    except OSError as error:
        # a job computes it again: that costs time, no answer
        log.warning("nearest_not_kept", file=path.name, reason=str(error))
        with suppress(OSError):
            part.unlink(missing_ok=True)
