"""How long a single request waits: a search by picture, and the first work of a job on an idle worker."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np

from imagekin_worker.bench import forward, pictures, timing
from imagekin_worker.bench.forward import Configuration
from imagekin_worker.bench.pipeline import contents, decode_rate
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.search import filled, rows_like_embeddings
from imagekin_worker.bench.service import Service
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network.devices import cores

TOP_K = 10
BUDGET_MS = 100.0
# Longer than whatever a worker does after a job.
REST_S = 0.3


def search_job(bench: Workbench) -> Figure:
    """Measure searches with an uploaded picture, submit to result, over their own decode, forward pass and scan."""
    service, space = bench.service(), bench.space(RESNET)
    rows = rows_like_embeddings(bench.sizes.service_rows, space.dim)
    folder = bench.drawn("queries", bench.sizes.searches + 3, pictures.ORDINARY)
    queries = contents(folder, bench.sizes.searches + 3)
    with service.collection(RESNET, bench.weights(RESNET)) as name:
        _import(service, bench.folder / "rows.npz", rows, name, space.fingerprint)
        times = [timing.seconds(lambda query=query: _search(service, query, name)) for query in queries]
    # the first ones load the network and the matrix
    times = times[3:]
    single = [Configuration(1, threads, 1) for threads in dict.fromkeys((1, cores()))]
    passes = 1 / max(forward.rate(bench, RESNET, each) for each in single)
    decode = 1 / decode_rate(queries, space, bench.settings, 1, bench.sizes.rate_s)
    matrix, query = filled(rows), rows_like_embeddings(1, space.dim, seed=1)
    scan = statistics.median(timing.seconds(lambda: matrix.search(query, TOP_K)) for _ in range(9))
    p50, own = statistics.median(times), decode + passes + scan
    limit = (
        f"forward {1000 * passes:.0f} ms, decode {1000 * decode:.0f}, scan {1000 * scan:.0f}, "
        f"HTTP, SQL and doorbell {1000 * (p50 - own):.0f}"
    )
    p95 = sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]
    details = {"rows": len(rows), "searches": len(times), "p95_ms": round(1000 * p95, 1)}
    return Figure(1000 * p50, 1000 * own, "ms", p50 / own, limit, details)


def idle(bench: Workbench) -> Figure:
    """Measure the time from a submit to the first claim of its work, the worker idle before."""
    service = bench.service()
    waits: list[float] = []
    with service.collection(DEFAULT) as name:
        for path in sorted(bench.drawn("single", bench.sizes.submits + 1, pictures.ORDINARY).iterdir()):
            folder = bench.folder / "submits" / path.stem
            folder.mkdir(parents=True)
            (folder / path.name).write_bytes(path.read_bytes())
            waits.append(1000 * service.embed(folder, name).began_s)
            time.sleep(REST_S)
    p50, worst = statistics.median(waits[1:]), max(waits[1:])
    limit = f"two HTTP calls, a commit, a ring and a claim; the slowest of {len(waits) - 1} took {worst:.0f} ms"
    return Figure(p50, BUDGET_MS, "ms", p50 / BUDGET_MS, limit, {"worst_ms": round(worst, 1)})


def _search(service: Service, query: bytes, collection: str) -> None:
    service.client.search(query, collection=collection, top_k=TOP_K)


def _import(service: Service, path: Path, rows: np.ndarray, collection: str, space: str) -> None:
    keys = np.array([f"{number:08}.jpg" for number in range(len(rows))])
    np.savez(path, keys=keys, embeddings=rows, space_id=np.array(space))
    service.client.import_vectors(path, collection).result()
