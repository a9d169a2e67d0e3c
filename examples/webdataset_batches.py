"""Read a shard batch by batch, as a training loop does: python examples/webdataset_batches.py SHARD [--batch 32]

The shard comes from `imagekin export -c COLLECTION -o SHARD.tar --filter split=train`. Images without a label have no
class and are passed over. Written for webdataset 1.0.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import webdataset
from PIL import Image

SIZE = (224, 224)


def classes_of(shard: Path) -> list[str]:
    """Return the labels whose numbers the samples have; they are the shard's first member."""
    with tarfile.open(shard) as tar:
        first = tar.next()
        file = None if first is None or first.name != "__classes__" else tar.extractfile(first)
        if file is None:
            raise SystemExit(f"{shard} is not a shard that imagekin exported.")
        return [json.loads(line) for line in file.read().splitlines()]


def prepared(sample: dict[str, Any]) -> tuple[Image.Image, int, str]:
    """Return a picture in the network's size, its class, and its name."""
    picture = next(value for value in sample.values() if isinstance(value, Image.Image))
    return picture.resize(SIZE), sample["cls"], sample["__key__"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shard", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    classes, seen = classes_of(given.shard), Counter[str]()
    samples = webdataset.WebDataset(str(given.shard), shardshuffle=False).decode("pilrgb")
    labelled = samples.select(lambda sample: "cls" in sample).map(prepared)
    for pictures, numbers, _names in labelled.batched(given.batch, collation_fn=lambda batch: zip(*batch, strict=True)):
        # here your network has its step
        assert all(picture.size == SIZE for picture in pictures)
        seen.update(classes[number] for number in numbers)
    for label in classes:
        print(f"{label}\t{seen[label]}")


if __name__ == "__main__":
    main()
