"""Take a collection into FiftyOne with labels, map and duplicates: python examples/fiftyone_dataset.py COLLECTION ROOT

ROOT is the folder that the keys name pictures in. The dataset gets our map as the visualization `imagekin`, and the tag
`copy` on all near-duplicates but the one to keep; `fiftyone app launch COLLECTION` shows it. Written for the interface
of fiftyone 1.22 and fiftyone-brain 0.27, which download a database: the tests do not run it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fiftyone as fo
import fiftyone.brain as fob
import numpy as np

from imagekin import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("root", type=Path)
    given = parser.parse_args()
    with Client() as client:
        images = {image.id: image for image in client.images(given.collection)}
        places = client.map(given.collection).result().rows
        groups = client.duplicates(given.collection).result().groups
    copies = {member.id for group in groups for member in group.members if member.id != group.keep.id}
    dataset = fo.Dataset(given.collection, persistent=True, overwrite=True)
    samples = []
    for place in places:
        sample = fo.Sample(filepath=str(given.root / place.key), tags=["copy"] if place.id in copies else [])
        if (label := images[place.id].metadata.get("label")) is not None:
            sample["label"] = fo.Classification(label=str(label))
        sample["imagekin_id"] = place.id
        samples.append(sample)
    dataset.add_samples(samples)
    points = np.array([[place.x, 1 - place.y] for place in places])
    fob.compute_visualization(dataset, points=points, brain_key="imagekin")
    print(f"{len(samples)} samples, {len(copies)} of them copies")


if __name__ == "__main__":
    main()
