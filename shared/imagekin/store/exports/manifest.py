"""A manifest: what a training set is made of and by which jobs, so that it can be made again and held against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from imagekin.store.exports.contents import Contents, Described, json_line
from imagekin.store.exports.lists import joined, listed


def write(contents: Contents) -> Iterator[bytes]:
    """Yield JSON: the space, the filter, the finished jobs with what they were asked, and each image's hash and label.

    Nothing in it depends on when it is written: the same images, metadata and jobs make the same bytes. Images are in
    the order of their keys, jobs in that in which they came; searches are left out, since they change nothing.
    """
    return joined(_texts(contents))


def _texts(contents: Contents) -> Iterator[str]:
    about = contents.description
    head = {
        "collection": contents.about.name,
        "space": {name: about[name] for name in ("space_id", "backbone", "weights", "precision", "dim", "dtype")},
        "field": contents.field,
        "split": contents.split,
        "filter": contents.wanted,
        "images": contents.count,
    }
    yield f'{json_line(head)[:-1]},\n"jobs": ['
    yield from listed(contents.jobs())
    yield '],\n"files": ['
    yield from listed(_file(contents, image) for image in contents.images())
    yield "]}\n"


def _file(contents: Contents, image: Described) -> dict[str, Any]:
    known = {"key": image.key, "sha256": image.content_hash, "id": image.id}
    return known | {"label": image.metadata.get(contents.field), "split": image.metadata.get(contents.split)}
