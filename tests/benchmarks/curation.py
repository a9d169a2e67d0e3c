"""From pictures to a training set on some thousands of them: what a whole run takes.

    python tests/benchmarks/curation.py [--count 9000] [--pictures FOLDER] [--folder FOLDER] [--json]

Draws COUNT pictures from those of FOLDER, whose folders are the classes (the demo's without one): parts of them,
some mirrored, lighter or darker, so that they are kin and few are copies. Then it runs every kind of job on the
embedded stack, and prints the seconds of each from its post to its end, and the most memory that a process and all
processes had in that time. A plain program, not a test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance, ImageOps

from imagekin import Client
from imagekin.demo import furniture
from imagekin.settings import Settings
from imagekin.stack import Stack

EXAMPLES = 5
WIDTH_PX = 400
LOOK_S = 0.1


@dataclass(frozen=True)
class Step:
    """What one step took: seconds, and mebibytes of the largest process and of all."""

    name: str
    seconds: float
    process_mib: int
    all_mib: int
    found: str


def draw(sources: dict[Path, str], count: int, folder: Path) -> None:
    """Write `count` pictures, named by class and number: parts of 55 to 90 % of a side, by a seed."""
    chance = random.Random(2026)
    paths = sorted(sources)
    for number in range(count):
        path = paths[number % len(paths)]
        with Image.open(path) as image:
            whole = ImageOps.exif_transpose(image).convert("RGB")
        share = chance.uniform(0.55, 0.9)
        size = [max(int(side * share), 1) for side in whole.size]
        left, top = (chance.randint(0, side - kept) for side, kept in zip(whole.size, size, strict=True))
        part = whole.crop((left, top, left + size[0], top + size[1]))
        part.thumbnail((WIDTH_PX, WIDTH_PX))
        if chance.random() < 0.5:
            part = ImageOps.mirror(part)
        part = ImageEnhance.Brightness(part).enhance(chance.uniform(0.75, 1.25))
        part = ImageEnhance.Contrast(part).enhance(chance.uniform(0.8, 1.2))
        target = folder / sources[path] / f"{number:06d}.jpg"
        target.parent.mkdir(exist_ok=True)
        part.save(target, quality=88)


class Memory:
    """Watches the memory of all processes below this one that belongs to them alone."""

    def __init__(self) -> None:
        self._largest = self._all = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def taken(self) -> tuple[int, int]:
        """Return the most since the last call, in MiB: of one process and of all of them."""
        found = self._largest, self._all
        self._largest = self._all = 0
        return found

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            sizes = [_own_mib(process) for process in descendants(os.getpid())]
            self._largest, self._all = max(self._largest, *sizes, 0), max(self._all, sum(sizes))


def descendants(process: int) -> list[int]:
    """Return the ids of all processes below one."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children[int(after_name[1])].append(int(path.parent.name))
    found, left = [], list(children[process])
    while left:
        found.append(left.pop())
        left += children[found[-1]]
    return found


def _own_mib(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("RssAnon")), 0)


def steps(client: Client, archive: Path, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each step in its order: its name, and what does it and returns what came of it."""

    def embed() -> str:
        result = client.embed(archive, "drawn", upload=True).result()
        return f"{result.embedded} embedded, {result.failed} failed"

    def duplicates() -> str:
        result = client.duplicates("drawn").result()
        return f"{result.duplicates} in {len(result.groups)} groups at {result.threshold:.3f}"

    def outliers() -> str:
        rows = client.outliers("drawn", 100).result().rows
        return f"the strangest: {rows[0].key}"

    def label() -> str:
        kinds = sorted(path.name for path in archive.iterdir())
        for kind in kinds:
            keys = [f"{kind}/{path.name}" for path in sorted((archive / kind).iterdir())[::7][:EXAMPLES]]
            client.update_images("drawn", image_keys=keys, metadata={"label": kind})
        return f"{EXAMPLES} in each of {len(kinds)} classes"

    def classify() -> str:
        result = client.classify("drawn").result()
        right = sum(row.label == row.key.partition("/")[0] for row in result.rows)
        return f"{right / len(result.rows):.3f} of {len(result.rows)} right; said {result.accuracy}"

    def adapt() -> str:
        result = client.adapt("drawn", "taught", force=True).result()
        return f"mAP {result.before.map} to {result.after.map}"

    def representative() -> str:
        return f"coverage {client.select('drawn', 200).result().coverage:.3f}"

    def diverse() -> str:
        return f"coverage {client.select('drawn', 200, method='diverse').result().coverage:.3f}"

    def split() -> str:
        client.split("drawn").result()
        leaks = client.duplicates("drawn", between="split").result()
        return f"{len(leaks.groups)} leaks"

    def map_() -> str:
        return f"{len(client.map('drawn').result().rows)} places"

    def cluster() -> str:
        return f"{client.cluster('drawn', 'auto').result().n_clusters} clusters"

    def search() -> str:
        key = client.outliers("drawn", 1).result().rows[0].key
        return f"{len(client.search(image_key=key, collection='drawn', collapse_duplicates=True).neighbors)} neighbors"

    def export() -> str:
        written = [
            client.export("drawn", folder / f"drawn.{format}", format=format) for format in ("jsonl", "manifest")
        ]
        return f"{sum(path.stat().st_size for path in written) >> 10} KiB"

    for each in (
        embed,
        duplicates,
        outliers,
        label,
        classify,
        adapt,
        representative,
        diverse,
        split,
        map_,
        cluster,
        search,
    ):
        yield each.__name__.rstrip("_"), each
    yield "export", export


@contextmanager
def stack(folder: Path) -> Iterator[Client]:
    """Run the embedded stack, with a client of it."""
    with Stack(Settings(data_dir=folder / "data", port=0), log=lambda _: None) as running:
        yield Client(running.url)


def main() -> None:
    """Draw the pictures, run the steps and print what each took."""
    parser = argparse.ArgumentParser(description="Measure every kind of job on some thousands of pictures.")
    parser.add_argument("--count", type=int, default=9000)
    parser.add_argument("--pictures", type=Path, help="a folder of folders, which are the classes")
    parser.add_argument("--folder", type=Path, help="where to write, a few hundred megabytes")
    parser.add_argument("--json", action="store_true")
    said = parser.parse_args()
    if said.pictures is None:
        sources = {picture.path: picture.kind for picture in furniture.pictures()}
    else:
        sources = {path: path.parent.name for path in said.pictures.glob("*/*") if path.is_file()}
    with tempfile.TemporaryDirectory(prefix="curation-", dir=said.folder) as name:
        folder = Path(name)
        archive = folder / "archive"
        archive.mkdir()
        draw(sources, said.count, archive)
        with stack(folder) as client:
            memory = Memory()
            for step, work in steps(client, archive, folder):
                memory.taken()
                started = time.perf_counter()
                found = work()
                taken = Step(step, round(time.perf_counter() - started, 2), *memory.taken(), found)
                show(asdict(taken), as_json=said.json)
            memory.close()


def show(step: dict[str, Any], *, as_json: bool) -> None:
    """Print a step as a row of a table, or as JSON."""
    row = json.dumps(step) if as_json else "| " + " | ".join(str(value) for value in step.values()) + " |"
    print(row, flush=True)


if __name__ == "__main__":
    main()
