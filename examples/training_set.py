"""Gather a training set by example: python examples/training_set.py COLLECTION FOLDER EXAMPLE... [--min-score 0.6]

Searches the collection for each example (a picture, or the key of a stored image), keeps what is similar enough and has
the metadata that `--filter NAME=VALUE` names, and writes FOLDER/images and FOLDER/manifest.jsonl: a line for each image
with its file, key, score, the example that found it, and metadata. The pictures are the service's thumbnails, or with
`--originals ROOT` the files that the keys name below ROOT.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from imagekin import Client
from imagekin.schemas import Neighbor

Found = dict[str, tuple[Neighbor, str]]


def wanted(pair: str) -> tuple[str, Any]:
    """Read NAME=VALUE; what is JSON is read as that, and all else is text, as `imagekin search --filter` does."""
    name, equals, text = pair.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{pair!r} is not NAME=VALUE")
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except ValueError:
        return name, text
    return name, value


def gather(client: Client, given: argparse.Namespace) -> Found:
    """Search by every example; return each image once, with the example that it is most similar to."""
    best: Found = {}
    for example in given.examples:
        query: dict[str, Any] = {"picture": example} if Path(example).is_file() else {"image_key": example}
        result = client.search(
            **query,
            collection=given.collection,
            top_k=given.top_k,
            min_score=given.min_score,
            exclude_query=False,
            filter=dict(given.filter),
        )
        for neighbor in result.neighbors:
            if neighbor.id not in best or neighbor.score > best[neighbor.id][0].score:
                best[neighbor.id] = (neighbor, example)
    return best


def write(client: Client, given: argparse.Namespace, found: Found) -> None:
    """Write the pictures and the manifest, the most similar first."""
    images = given.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with (given.folder / "manifest.jsonl").open("w") as manifest:
        for neighbor, example in sorted(found.values(), key=lambda pair: (-pair[0].score, pair[0].key)):
            # keys may have folders in them; ids never do
            file = images / (neighbor.id + (Path(neighbor.key).suffix if given.originals else ".jpg"))
            if given.originals:
                shutil.copyfile(given.originals / neighbor.key, file)
            else:
                file.write_bytes(client.thumbnail(given.collection, neighbor.id))
            line = {"file": str(file.relative_to(given.folder)), "key": neighbor.key, "score": neighbor.score}
            manifest.write(json.dumps({**line, "example": example, "metadata": neighbor.metadata}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("folder", type=Path)
    parser.add_argument("examples", nargs="+", metavar="EXAMPLE")
    parser.add_argument("--top-k", type=int, default=100, help="of each example")
    parser.add_argument("--min-score", type=float, default=0.6)
    parser.add_argument("--filter", action="append", default=[], type=wanted, metavar="NAME=VALUE")
    parser.add_argument("--originals", type=Path, metavar="ROOT")
    given = parser.parse_args()
    with Client() as client:
        found = gather(client, given)
        write(client, given, found)
    print(f"{len(found)} images in {given.folder}")


if __name__ == "__main__":
    main()
