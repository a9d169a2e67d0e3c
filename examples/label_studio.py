"""Label in Label Studio with suggestions, and bring the labels back: python examples/label_studio.py COLLECTION FILE

Writes tasks with the labels that are there as annotations, and for the other images what `classify` suggests as
predictions; and FILE.xml, the project's labelling interface. With `--back`, FILE is what Label Studio exported as JSON,
and its annotations become the labels. Tasks name pictures by their URL, or by their place among Label Studio's local
files. Written for Label Studio 1.20 and held against label-studio-sdk 2.1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from imagekin import Client


def choice(field: str, label: str) -> dict[str, Any]:
    return {"from_name": field, "to_name": "image", "type": "choices", "value": {"choices": [label]}}


def write(client: Client, collection: str, file: Path, field: str) -> None:
    """Write the tasks and the interface."""
    client.export(collection, file, format="labelstudio", field=field)
    tasks = json.loads(file.read_text())
    result = client.classify(collection, field=field).result()
    suggested = {row.id: row for row in result.rows}
    for task in tasks:
        if (row := suggested.get(task["data"]["id"])) is not None:
            prediction = {"model_version": f"imagekin {result.method}", "score": row.probability}
            task["predictions"] = [{**prediction, "result": [choice(field, str(row.label))]}]
    file.write_text(json.dumps(tasks, ensure_ascii=False, indent=1))
    choices = "".join(f"<Choice value={quoteattr(str(each.label))}/>" for each in result.classes)
    control = f'<Choices name={quoteattr(field)} toName="image">{choices}</Choices>'
    file.with_suffix(".xml").write_text(f'<View><Image name="image" value="$image"/>{control}</View>\n')
    print(f"{len(tasks)} tasks, {len(suggested)} with a prediction")


def bring_back(client: Client, collection: str, file: Path, field: str) -> None:
    """Take each task's last annotation that was not cancelled as the image's label."""
    by_label: dict[str, list[str]] = {}
    for task in json.loads(file.read_text()):
        for annotation in reversed(task.get("annotations", [])):
            chosen = [each["value"]["choices"][0] for each in annotation["result"] if each["from_name"] == field]
            if chosen and not annotation.get("was_cancelled"):
                by_label.setdefault(chosen[0], []).append(task["data"]["id"])
                break
    changed = sum(
        client.update_images(collection, image_ids=ids, metadata={field: label}) for label, ids in by_label.items()
    )
    print(f"{changed} images labelled")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("collection")
    parser.add_argument("file", type=Path)
    parser.add_argument("--field", default="label")
    parser.add_argument("--back", action="store_true", help="read FILE and set the labels")
    given = parser.parse_args()
    with Client() as client:
        (bring_back if given.back else write)(client, given.collection, given.file, given.field)


if __name__ == "__main__":
    main()
