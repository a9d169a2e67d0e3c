"""Load an imagefolder with Hugging Face datasets: python examples/imagefolder_dataset.py FILE.zip FOLDER

The zip comes from `imagekin export -c COLLECTION -o FILE.zip`; it is unpacked into FOLDER. The folders are the splits
and the labels. Written for datasets 5.2; `torchvision.datasets.ImageFolder("FOLDER/train")` reads them, too.
"""

from __future__ import annotations

import argparse
import zipfile
from collections import Counter
from pathlib import Path

import datasets


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    with zipfile.ZipFile(given.file) as packed:
        packed.extractall(given.folder)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(given.folder), cache_dir=str(given.folder / ".cache"))
    for split, rows in loaded.items():
        names = rows.features["label"].names if "label" in rows.features else []
        counts = Counter(names[number] for number in rows["label"]) if names else Counter({"": len(rows)})
        for label, count in sorted(counts.items()):
            print(f"{split}\t{label}\t{count}")


if __name__ == "__main__":
    main()
