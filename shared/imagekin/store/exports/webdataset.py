"""webdataset: a tar of samples, `NAME.jpg`, `NAME.json` and `NAME.cls`, for training and for imagekin.

The form is that of https://github.com/webdataset/webdataset: a sample's name has no dot, and its files lie together.
Members like `__classes__` are not samples; the package passes them over, and so does imagekin.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from imagekin.store.exports import pictures
from imagekin.store.exports.contents import Described, json_line
from imagekin.store.exports.pictures import Chosen, Reader
from imagekin.store.exports.scratch import Scratch

CLASSES, LEFT_OUT = "__classes__", "__left-out__"


def write(chosen: Chosen, read: Reader) -> Iterator[bytes]:
    """Yield a tar: in the order of keys, a sample for each image whose picture can be read.

    `.json` is its metadata, with the `key` where the sample's name is another; `.cls` is the number of its label in the
    lines of `__classes__`. The last member, `__left-out__`, lists the images without a picture.
    """
    numbers = {label: number for number, label in enumerate(chosen.labels)}
    yield _member(CLASSES, "".join(json_line(label) + "\n" for label in numbers).encode())
    for image, data, reason in read(chosen.scratch.images()):
        if data is None:
            chosen.scratch.leave_out(image, reason)
            continue
        name = _name(image, chosen.scratch)
        suffix = pictures.suffix_of(image)
        kept = name + suffix == image.key or "key" in image.metadata
        yield _member(name + suffix, data)
        metadata = image.metadata if kept else {"key": image.key, **image.metadata}
        yield _member(f"{name}.json", json_line(metadata).encode())
        if (label := chosen.contents.label(image)) is not None and label in numbers:
            yield _member(f"{name}.cls", str(numbers[label]).encode())
    yield _member(LEFT_OUT, b"".join(chosen.left_out()))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _name(image: Described, scratch: Scratch) -> str:
    """Return a sample's name: the key without its suffix; dots, and where that is taken the suffix, are `%2E`."""
    for name in (pictures.stem_of(image), image.key):
        # a folder may have dots, and a name may not
        path = PurePosixPath(name)
        found = name[: len(name) - len(path.name)] + path.name.replace("%", "%25").replace(".", "%2E")
        if scratch.take(found):
            return found
    return image.id


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.PAX_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)
