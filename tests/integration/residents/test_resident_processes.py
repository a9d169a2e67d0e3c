"""Matrices and their files in processes that are killed, share a folder, or have little memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from imagekin.database import tables
from imagekin_worker.matrix.file_cache import MatrixCache
from kit.hand import Hand
from kit.processes import DIM, PLENTY, Worker, names, process, the_file


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize("budget", [PLENTY, 1000])
def test_a_process_killed_before_the_rename_leaves_nothing_that_counts(
    hand: Hand, cache: MatrixCache, budget: int
) -> None:
    hand.embed(names(60))
    killed = process(
        """
        import os, signal
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        held = loaded.Residents(database, int(budget), cache=cache)
        held.get(collection_id)
        held.settle()
        """,
        hand, cache, budget,
    )  # fmt: skip
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    [left] = cache.folder.glob(".*.part")
    assert left.stat().st_size > 60 * 4 * DIM
    worker = Worker(hand, cache, budget)
    worker.check()
    worker.stop()
    assert the_file(cache).stat().st_size > 60 * 4 * DIM


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_processes_that_share_a_folder(hand: Hand, cache: MatrixCache) -> None:
    """Two write and read the same file again and again, one in memory and one from the file, while images come."""
    hand.embed(names(64))
    script = """
        query = np.ones((1, 64), np.float32)
        for round in range(25):
            held = loaded.Residents(database, int(budget), cache=cache)
            collection = len(held.get(collection_id))
            found = held.search(collection_id, query, 5)[1][0]
            assert len(found) == 5 and collection >= 64, (collection, found)
            held.settle()
            held.close()
            if round % 3 == 0:
                for path in Path(folder).glob("*.matrix"):
                    path.unlink(missing_ok=True)
        print("done")
    """
    both = [process(script, hand, cache, budget) for budget in (PLENTY, 1000)]
    number = 100
    while any(one.poll() is None for one in both) and number < 200:
        hand.embed(names(2, first=number))
        number += 2
    assert [one.communicate(timeout=120)[0] for one in both] == ["done\n"] * 2
    worker = Worker(hand, cache)
    worker.check()
    worker.stop()
    assert list(cache.folder.glob(".*.part")) == []


@pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
def test_memory_is_bounded_whatever_the_collection(hand: Hand, cache: MatrixCache) -> None:
    """120 MB of vectors under a budget of 8 MB, from SQL into the file and through searches."""
    hand.embed(["first"])
    count, dim = 24_000, 1280
    rows = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
    with hand.database.engine.begin() as connection:
        image = connection.execute(sa.text("SELECT * FROM images")).mappings().one()
        segment = connection.execute(sa.text("SELECT * FROM segments")).mappings().one()
        for table in ("images", "thumbnails", "segments"):
            connection.execute(sa.text(f"DELETE FROM {table}"))
        for start in range(0, count, 100):
            name = f"{start:032x}"
            piece = rows[start : start + 100]
            connection.execute(
                sa.insert(tables.Segment),
                dict(segment) | {"id": name, "data": piece.tobytes(), "count": len(piece), "dim": dim},
            )
            about = {key: value for key, value in image.items() if key != "metadata"}
            connection.execute(
                sa.insert(tables.Image),
                [
                    about | {"id": f"f{start + at:031x}", "key": f"{start + at:08}", "segment_id": name, "row": at,
                             "metadata_": {}}
                    for at in range(len(piece))
                ],
            )  # fmt: skip
        connection.execute(sa.text(f"UPDATE collections SET image_count = {count}"))
        connection.execute(sa.text(f"UPDATE spaces SET dim = {dim}"))
    measured = process(
        """
        def now(name="VmRSS"):
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) // 1024
        held = loaded.Residents(database, int(budget), cache=cache)
        from imagekin_worker.matrix.neighbors import Matrix
        warm = Matrix(1280)
        warm.upsert(["a"] * 9, np.ones((9, 1280), np.float32))
        warm.search(np.ones((4, 1280), np.float32), 10)
        before = now()
        matrix = held.get(collection_id)
        built = now("VmHWM")
        queries = np.load(sys.argv[5])
        for at in range(3):
            _, found = held.search(collection_id, queries, 10)
        print(len(matrix), built - before, now("VmHWM") - before)
        print(" ".join(one.key for one in found[0]))
        """,
        hand, cache, 8 << 20, _saved(cache.folder.parent / "q.npy", rows[:3]),
    )  # fmt: skip
    out = measured.communicate(timeout=120)[0].splitlines()
    held, building, peak = map(int, out[0].split())
    print(f"building {building} MB, peak {peak} MB of {rows.nbytes >> 20} MB")
    assert held == count
    scores = rows.astype(np.float64) @ rows[0] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[0])
    best = np.lexsort((np.arange(count), -scores.round(6)))[:10]
    assert out[1].split() == [f"{row:08}" for row in best]
    # the blobs of some segments while it is built, a block for each core while it is searched, and names
    assert peak < 60


def _saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path
