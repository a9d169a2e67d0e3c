"""COCO: images, categories, and the label of each image as an annotation of the whole of it.

The form is that of https://cocodataset.org/#format-data, "Object Detection".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imagekin.store.exports.contents import Contents, Described, json_line
from imagekin.store.exports.lists import joined, listed


def write(contents: Contents) -> Iterator[bytes]:
    """Yield COCO's JSON: numbers as ids, in the order of keys; `imagekin_id` of an image is its id here.

    An annotation's box is the whole image. Imported images, whose size is not known, have 0 x 0 pixels.
    """
    return joined(_texts(contents))


def _texts(contents: Contents) -> Iterator[str]:
    labels = sorted({label for image in contents.images() if (label := contents.label(image)) is not None})
    numbers = {label: number for number, label in enumerate(labels, 1)}
    yield f'{{"info": {json_line({"description": contents.about.name, **contents.description})},\n"categories": ['
    yield from listed({"id": numbers[label], "name": label, "supercategory": contents.field} for label in labels)
    yield '],\n"images": ['
    yield from listed(_image(number, image) for number, image in enumerate(contents.images(), 1))
    yield '],\n"annotations": ['
    yield from listed(_annotations(contents, numbers))
    yield "]}\n"


def _image(number: int, image: Described) -> dict[str, Any]:
    size = {"width": image.width or 0, "height": image.height or 0}
    return {"id": number, "file_name": image.key, **size, "imagekin_id": image.id}


def _annotations(contents: Contents, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    count = 0
    for number, image in enumerate(contents.images(), 1):
        if (label := contents.label(image)) is None:
            continue
        count += 1
        width, height = image.width or 0, image.height or 0
        yield {
            "id": count,
            "image_id": number,
            "category_id": numbers[label],
            "bbox": [0, 0, width, height],
            "area": width * height,
            "segmentation": [],
            "iscrowd": 0,
        }
