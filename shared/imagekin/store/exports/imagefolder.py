"""imagefolder: a zip of pictures in folders that are their labels, for `torchvision.datasets` and Hugging Face.

The form is that of https://huggingface.co/docs/datasets/image_dataset and of torchvision's ImageFolder.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from imagekin.store.exports import pictures
from imagekin.store.exports.contents import Described, value_text
from imagekin.store.exports.pictures import Chosen, Reader
from imagekin.store.exports.scratch import Scratch
from imagekin.store.exports.sink import Archive

LEFT_OUT = "left-out.jsonl"


def write(chosen: Chosen, read: Reader) -> Iterator[bytes]:
    """Yield a zip: `SPLIT/LABEL/NAME.jpg`, without what no image has.

    Where some images have a label or a split, those without one are left out. `left-out.jsonl`, if there is one, lists
    these and the images whose pictures cannot be read.
    """
    archive = Archive()
    for image, data, reason in read(_complete(chosen)):
        if data is None:
            chosen.scratch.leave_out(image, reason)
        else:
            name = _name(image, _folder(chosen, image), chosen.scratch)
            yield from archive.add(name, [data], zipfile.ZIP_STORED)
    if left_out := b"".join(chosen.left_out()):
        yield from archive.add(LEFT_OUT, [left_out])
    yield from archive.finish()


def _complete(chosen: Chosen) -> Iterator[Described]:
    """Yield the images that have what others have."""
    for image in chosen.scratch.images():
        missing = [name for name in _fields(chosen) if not value_text(image, name)]
        if missing:
            chosen.scratch.leave_out(image, f"It has no {missing[0]!r} in its metadata.")
        else:
            yield image


def _fields(chosen: Chosen) -> list[str]:
    """Return the fields whose values are folders, the outer one first."""
    contents = chosen.contents
    return [name for name, used in ((contents.split, chosen.parted), (contents.field, bool(chosen.labels))) if used]


def _folder(chosen: Chosen, image: Described) -> list[str]:
    return [pictures.writable(value_text(image, name) or "") for name in _fields(chosen)]


def _name(image: Described, folder: list[str], scratch: Scratch) -> str:
    """Return a file's place: the last part of its key, or all of it where that is taken."""
    suffix, stem = pictures.suffix_of(image), pictures.stem_of(image)
    for name in (PurePosixPath(stem).name, stem, image.key):
        found = "/".join([*folder, pictures.writable(name) + suffix])
        # names that differ in case alone are one on some systems
        if name and scratch.take(found.casefold()):
            return found
    return "/".join([*folder, f"{image.id}{suffix}"])
