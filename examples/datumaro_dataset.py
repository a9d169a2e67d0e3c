"""Take a training set into datumaro, and out in another format: python examples/datumaro_dataset.py FILE.zip FOLDER

The zip comes from `imagekin export -c COLLECTION -o FILE.zip`, with splits and labels; it is unpacked into FOLDER/set,
and written into FOLDER/FORMAT. Written for datumaro 1.13, which needs an environment of its own (pandas 2, and more).
"""

from __future__ import annotations

import argparse
import zipfile
from collections import Counter
from pathlib import Path

from datumaro import Dataset


def side(folder: Path) -> Dataset:
    """Return the pictures of a split, whose folders are their labels."""
    found = Dataset.import_from(str(folder), "imagenet")
    return found.transform("map_subsets", mapping={"default": folder.name})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--format", default="datumaro")
    given = parser.parse_args()
    with zipfile.ZipFile(given.file) as packed:
        packed.extractall(given.folder / "set")
    sides = [side(folder) for folder in sorted((given.folder / "set").iterdir()) if folder.is_dir()]
    # a small side may be without one of the labels
    dataset = Dataset.from_extractors(*sides, merge_policy="union")
    labels = dataset.categories()[next(iter(dataset.categories()))]
    counts = Counter((item.subset, labels[each.label].name) for item in dataset for each in item.annotations)
    for (subset, label), count in sorted(counts.items()):
        print(f"{subset}\t{label}\t{count}")
    dataset.export(str(given.folder / given.format), given.format, save_media=True)


if __name__ == "__main__":
    main()
