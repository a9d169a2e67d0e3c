"""Write a table for Embedding Atlas, laid out by our map: python examples/embedding_atlas_table.py COLLECTION FILE

Then `embedding-atlas FILE --x x --y y --text key` shows the Parquet file, colored by label if you choose that column.
With `--neighbors` here and `--neighbors neighbors` there, a point shows its nearest images. Written for the options of
embedding-atlas 0.26, which installs several gigabytes, so it is not run in imagekin's tests.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagekin import Client

NEIGHBORS = 10
BLOCK = 1024


def nearest(embeddings: np.ndarray) -> list[dict[str, list[float]]]:
    """Return for each row (n, dim) the numbers of the nearest others, and their distances by the cosine."""
    rows = embeddings.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    found = []
    for start in range(0, len(rows), BLOCK):
        scores = rows[start : start + BLOCK] @ rows.T
        for at, row in enumerate(scores, start):
            row[at] = -2
            order = np.argsort(-row)[: min(NEIGHBORS, len(rows) - 1)]
            found.append({"ids": order.tolist(), "distances": (1 - row[order]).tolist()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("file", type=Path)
    parser.add_argument("--neighbors", action="store_true")
    given = parser.parse_args()
    with Client() as client:
        places = {row.id: row for row in client.map(given.collection).result().rows}
        labels = {image.id: image.metadata.get("label") for image in client.images(given.collection)}
        ids, keys, embeddings = client.vectors(given.collection)
    columns = {
        "id": ids,
        "key": keys,
        "label": ["" if labels[id] is None else str(labels[id]) for id in ids],
        "x": [places[id].x for id in ids],
        "y": [1 - places[id].y for id in ids],
    }
    if given.neighbors:
        columns["neighbors"] = nearest(embeddings)
    pq.write_table(pa.table(columns), given.file)
    print(f"{len(ids)} images in {given.file}")


if __name__ == "__main__":
    main()
