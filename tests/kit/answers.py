"""What the small server answers to the command line."""

from __future__ import annotations

from kit.fake_server import progress

NEIGHBORS = [
    {"rank": 1, "id": "i1", "key": "a.png", "score": 0.91, "metadata": {}},
    {"rank": 2, "id": "i2", "key": "b.png", "score": 0.5, "metadata": {}},
]
CLUSTERS = {
    "n_clusters": 2,
    "metric": "euclidean",
    "algorithm": "kmeans",
    "seed": 100,
    "inertia": 12.5,
    "iterations": 3,
    "clusters": [
        {"label": 0, "size": 3, "medoid": {"id": "i1", "key": "a.png"}, "cohesion": 0.9},
        {"label": 1, "size": 1, "medoid": {"id": "i2", "key": "b.png"}, "cohesion": 1},
    ],
    "assignments": [{"id": "i1", "key": "a.png", "label": 0, "distance": 0.1}],
}
PARTIAL = [
    {"status": "running", "progress": progress(total=4, done=1, embedded=1, images_per_s=12.0, eta_s=80)},
    {"status": "partial", "progress": progress(total=4, done=4, embedded=2, reused=1, failed=1)},
]
ITEMS = [
    {"key": "a.png", "status": "embedded", "image_id": "i1", "error": None},
    {"key": "b.png", "status": "failed", "image_id": None, "error": {"code": "decode_error", "detail": "Broken."}},
]
