"""Labels: the values of a field of images' metadata, as classes to learn from or to divide evenly."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.jobs.claim import Claim
from imagekin.store import images
from imagekin_worker.analysis import labelled
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds.pinned import Pinned

# More are no classes but texts or numbers, and each takes memory.
MAX_CLASSES = 5000
MAX_LABEL_CHARS = 1024


@dataclass(frozen=True)
class Labels:
    """`classes`: the values, each once; `numbers` (n,): the class of each pinned image, -1 without one."""

    classes: list[Any]
    numbers: np.ndarray

    @cached_property
    def digest(self) -> str:
        """What progress is kept with: labels may change while their images keep their revision."""
        classes = json.dumps(self.classes, sort_keys=True).encode()
        return hashlib.blake2b(self.numbers.tobytes() + classes, digest_size=16).hexdigest()


def of(node: Node, claim: Claim, pinned: Pinned, field: str) -> Labels:
    """Return the labels of the pinned images; raises InvalidRequest for other values of the field."""
    return node.database.read(_read, claim, pinned, field)


def _read(session: Session, claim: Claim, pinned: Pinned, field: str) -> Labels:
    rows = {id: row for row, id in enumerate(pinned.ids)}
    # each text once, however many images have it
    known: dict[str, str] = {}
    texts: list[str | None] = [None] * len(rows)
    with closing(images.values(session, claim.collection_id, field)) as found:
        for id, value in found:
            if (row := rows.get(id)) is None:
                continue
            text = json.dumps(value, ensure_ascii=False, sort_keys=True)
            if len(text) > MAX_LABEL_CHARS:
                raise errors.InvalidRequest(
                    f"The field {field!r} has values of more than {MAX_LABEL_CHARS:,} characters; they are not labels."
                )
            texts[row] = known.setdefault(text, text)
            if len(known) > MAX_CLASSES:
                raise errors.InvalidRequest(
                    f"The field {field!r} has more than {MAX_CLASSES:,} different values; they are not classes."
                )
    classes, numbers = labelled.encoded(texts)
    return Labels([json.loads(text) for text in classes], numbers)
