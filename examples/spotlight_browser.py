"""Look at a collection in Spotlight, by our vectors: python examples/spotlight_browser.py COLLECTION [--port 8080]

Opens a table with thumbnails, metadata, labels and embeddings, from which Spotlight draws its own map. Written for
renumics-spotlight 1.8, in an environment of its own (it wants older packages).
"""

from __future__ import annotations

import argparse
import json

import pandas as pd
from renumics import spotlight

from imagekin import Client


def table(client: Client, collection: str) -> pd.DataFrame:
    """Return a row for each image."""
    ids, keys, embeddings = client.vectors(collection)
    images = {image.id: image for image in client.images(collection)}
    return pd.DataFrame(
        {
            "key": keys,
            "thumbnail": [client.thumbnail(collection, id) for id in ids],
            "label": [str(images[id].metadata.get("label", "")) for id in ids],
            "metadata": [json.dumps(images[id].metadata, ensure_ascii=False) for id in ids],
            "embedding": list(embeddings.astype("float32")),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("--port", default="auto")
    given = parser.parse_args()
    with Client() as client:
        rows = table(client, given.collection)
    port = given.port if given.port == "auto" else int(given.port)
    spotlight.show(
        rows,
        dtype={"thumbnail": spotlight.Image, "label": spotlight.Category, "embedding": spotlight.Embedding},
        port=port,
        no_browser=True,
        wait="forever",
    )


if __name__ == "__main__":
    main()
