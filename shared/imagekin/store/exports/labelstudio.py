"""Label Studio: tasks of a labelling project, with the labels that are there as annotations.

The form is that of https://labelstud.io/guide/tasks, "Basic Label Studio JSON format".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from imagekin.store.exports.contents import Contents, Described, json_line
from imagekin.store.exports.lists import joined

# Where Label Studio serves files of its own machine, below its document root.
LOCAL_FILES = "/data/local-files/?d="


def write(contents: Contents) -> Iterator[bytes]:
    """Yield a list of tasks: `data` has the image's address, `key` and `id`.

    The address is the key if that is a URL, else the key's place among Label Studio's local files. The project's
    control tag for the label is `<Choices name="FIELD" toName="image">`.
    """
    return joined(_tasks(contents))


def _tasks(contents: Contents) -> Iterator[str]:
    before = "["
    for image in contents.images():
        yield before + json_line(_task(contents, image))
        before = ",\n"
    yield "]\n" if contents.count else "[]\n"


def _task(contents: Contents, image: Described) -> dict[str, Any]:
    is_address = image.key.startswith(("http://", "https://"))
    address = image.key if is_address else LOCAL_FILES + quote(image.key)
    task: dict[str, Any] = {"data": {"image": address, "key": image.key, "id": image.id}, "meta": image.metadata}
    if (label := contents.label(image)) is not None:
        choice = {"from_name": contents.field, "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        task["annotations"] = [{"result": [choice]}]
    return task
