"""Watch a folder and embed what is new in it: python examples/watch_folder.py FOLDER COLLECTION

It looks every few seconds and embeds pictures that are new or have changed, once they have stopped growing. Kill it and
start it again whenever you like, the service as well: it keeps no state, as what the collection has is not sent again.
The pictures' keys are their file names; folders below are left alone. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from imagekin import Client, errors
from imagekin.enums import ItemStatus

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"}
Stamp = tuple[int, int]


def pictures(folder: Path) -> dict[Path, Stamp]:
    """Return the pictures of a folder, each with what changes when it does: its time and size."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name[0] != "." and Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                status = entry.stat()
                found[Path(entry.path)] = (status.st_mtime_ns, status.st_size)
    return found


def embed(client: Client, paths: list[Path], collection: str) -> None:
    """Embed pictures, wait for the end, and say what became of them."""
    job = client.embed(paths, collection).wait()
    progress = job.progress
    print(f"{progress.embedded} embedded, {progress.reused} reused, {progress.failed} failed", flush=True)
    for item in job.items(ItemStatus.FAILED):
        print(f"  {item.key}: {item.error.detail if item.error else 'failed'}", flush=True)


def watch(client: Client, folder: Path, collection: str, every_s: float) -> None:
    """Look, embed what is new and has settled, and sleep; never returns."""
    before: dict[Path, Stamp] = {}
    done: dict[Path, Stamp] = {}
    while True:
        now = pictures(folder)
        settled = [path for path, stamp in now.items() if before.get(path) == stamp != done.get(path)]
        try:
            if settled:
                embed(client, settled, collection)
            done |= {path: now[path] for path in settled}
        except FileNotFoundError:
            pass  # gone since we looked
        except errors.SourceUnreadable as error:
            # written anew while it was read, so it has not settled; what went before it is known then
            print(f"{error.detail} Looking again.", file=sys.stderr, flush=True)
        except errors.ImagekinError as error:
            if not error.retryable:
                raise
            print(f"{error.detail} Trying again.", file=sys.stderr, flush=True)
        before = now
        time.sleep(every_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("collection")
    parser.add_argument("--every", type=float, default=5, metavar="SECONDS")
    given = parser.parse_args()
    with Client() as client:
        watch(client, given.folder, given.collection, given.every)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
