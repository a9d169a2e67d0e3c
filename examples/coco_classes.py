"""Count and list the images of each class of a COCO file: python examples/coco_classes.py FILE [CLASS]

The file comes from `imagekin export -c COLLECTION -o FILE --format coco`. Written for pycocotools 2.0.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from pycocotools.coco import COCO


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("label", nargs="?", metavar="CLASS")
    given = parser.parse_args()
    # it prints what it does
    with contextlib.redirect_stdout(sys.stderr):
        coco = COCO(str(given.file))
    if given.label is None:
        for category in coco.loadCats(coco.getCatIds()):
            print(f"{category['name']}\t{len(coco.getImgIds(catIds=[category['id']]))}")
        return
    chosen = coco.getCatIds(catNms=[given.label])
    if not chosen:
        raise SystemExit(f"{given.file} has no class {given.label!r}.")
    for image in coco.loadImgs(sorted(coco.getImgIds(catIds=chosen))):
        print(f"{image['file_name']}\t{image['width']}\t{image['height']}\t{image['imagekin_id']}")


if __name__ == "__main__":
    main()
