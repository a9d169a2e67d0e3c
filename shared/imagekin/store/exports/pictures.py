"""What exports with pictures have in common: which picture goes where, under names that every system can write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from imagekin.store.exports.contents import Contents, Described, json_line, value_text
from imagekin.store.exports.scratch import Scratch

# Suffixes of the formats; the first one is given where a key has none of them.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JXL": (".jxl",),
}
# What a file name may not have on one system or another, and the sign that stands for these.
_UNWRITABLE = frozenset('<>:"|?*\\%/') | {chr(code) for code in range(32)}
_DEVICES = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{name}{at}" for name in ("COM", "LPT") for at in range(1, 10))})


class Picture(NamedTuple):
    """An image with the bytes of its file, or why they cannot be read."""

    image: Described
    data: bytes | None
    reason: str = ""


Reader = Callable[[Iterator[Described]], Iterator[Picture]]
"""Reads the pictures of images again, in their order."""


@dataclass
class Chosen:
    """The images of an export with what is known of all: their labels, in order, and whether some have a split."""

    contents: Contents
    scratch: Scratch
    labels: list[str] = field(default_factory=list)
    parted: bool = False

    @classmethod
    def of(cls, contents: Contents, scratch: Scratch) -> Chosen:
        """Keep the images, by key."""
        chosen, labels = cls(contents, scratch), set()

        def seen() -> Iterator[Described]:
            for image in contents.images():
                if label := contents.label(image):
                    labels.add(label)
                chosen.parted = chosen.parted or bool(contents.split and value_text(image, contents.split))
                yield image

        scratch.add_images(seen())
        chosen.labels = sorted(labels)
        return chosen

    def left_out(self) -> Iterator[bytes]:
        """Yield a line of JSON for each image that was left out."""
        return ((json_line(row) + "\n").encode() for row in self.scratch.left_out())


def suffix_of(image: Described) -> str:
    """Return the suffix of an image's key, if it is one of the image's format, else that format's first one."""
    return _own_suffix(image) or _suffixes(image)[0]


def stem_of(image: Described) -> str:
    """Return an image's key without the suffix, if that is one of the image's format."""
    return image.key.removesuffix(_own_suffix(image))


def _own_suffix(image: Described) -> str:
    suffix = PurePosixPath(image.key).suffix
    return suffix if suffix.lower() in _suffixes(image) else ""


def _suffixes(image: Described) -> tuple[str, ...]:
    return SUFFIXES.get(image.format or "", (".bin",))


def writable(text: str) -> str:
    """Return a text as the name of a file or a folder: what some system does not write is `%` and two digits."""
    name = "".join(f"%{ord(each):02X}" if each in _UNWRITABLE else each for each in text)
    if name[-1:] in (".", " "):
        name = f"{name[:-1]}%{ord(name[-1]):02X}"
    return name.replace(name[0], f"%{ord(name[0]):02X}", 1) if name.partition(".")[0].upper() in _DEVICES else name
