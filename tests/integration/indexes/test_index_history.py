"""Searches by an index while it is built, caught up and built again: none misses what was committed before it began."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pytest

from imagekin.enums import IndexStatus, Lane
from imagekin.maintenance.upkeep import Upkeep
from imagekin.schemas import ImagesBody
from imagekin.schemas.kinds import JobKind
from imagekin.settings import Settings
from imagekin.store import bulk, indexes
from imagekin_worker.context.process_state import Node
from imagekin_worker.matrix import index_rows
from imagekin_worker.matrix.view import CALIBRATED
from kit.crew import Crew
from kit.hand import Hand, item, vector

FIRST, CHANGING = 1000, 300
BUILDS, LEAST_SEARCHES = 2, 60
SAME = 0.99999


@dataclass
class Story:
    """The last content of each key, which of them are deleted, and how often each changed: odd during a change."""

    contents: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    changes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


def write(hand: Hand, story: Story) -> None:
    """Add, replace and delete images, some in each transaction."""
    draw, content = np.random.default_rng(1), 100_000
    while not story.over.is_set():
        keys = [f"k{at:03}" for at in draw.choice(CHANGING, int(draw.integers(1, 12)), replace=False)]
        story.changes.update(keys)
        if draw.random() < 0.3:
            bulk.delete(hand.database, hand.owner, hand.name, ImagesBody(image_keys=keys_there(story, keys)))
            story.deleted |= set(keys)
        else:
            content += CHANGING
            contents = {key: content + at for at, key in enumerate(keys)}
            hand.store([item(key, content) for key, content in contents.items()])
            story.contents |= contents
            story.deleted -= set(keys)
        story.changes.update(keys)
        story.counts["writes"] += 1
        # the others come to a turn as well
        story.over.wait(0.005)


def keys_there(story: Story, keys: list[str]) -> list[str]:
    return [key for key in keys if key in story.contents and key not in story.deleted]


def search(hand: Hand, story: Story, settings: Settings) -> None:
    """Search for what keys hold, or held when they were deleted."""
    collection_id, draw = hand.collection().id, np.random.default_rng(2)
    with closing(Node(settings, Lane.INTERACTIVE)) as node:
        while not story.over.is_set():
            key = f"k{draw.integers(CHANGING):03}"
            before = story.changes[key]
            if before % 2 or key not in story.contents:
                continue
            content, deleted = story.contents[key], key in story.deleted
            indexed = hand.database.read(indexes.ready, collection_id) is not None
            _, [found] = node.searches.search(collection_id, vector(content)[None], 10, view=CALIBRATED)
            if story.changes[key] != before:
                continue
            story.counts["with an index" if indexed else "without"] += 1
            hit = next((one for one in found if one.key == key), None)
            if not deleted and (hit is None or hit.rank != 1 or hit.score < SAME):
                story.problems.append(f"{key} was not found: {hit}")
            if deleted and hit is not None:
                story.problems.append(f"{key} was deleted, and found")


def telling(work: Callable[[], None], story: Story) -> Callable[[], None]:
    """Return work that ends the story where it fails."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            story.problems.append(repr(error))
            story.over.set()
            raise

    return run


def test_no_search_misses_what_was_committed_before_it_began(
    hand: Hand, crew: Crew, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_rows, "FILLED_ROWS", 200)
    monkeypatch.setattr(index_rows, "CAUGHT_UP_ROWS", 20)
    collection = hand.collection()
    for start in range(0, FIRST, 100):
        hand.store([item(f"first-{at:04}", at) for at in range(start, start + 100)])
    story = Story()
    works = [telling(lambda: write(hand, story), story), telling(lambda: search(hand, story, settings), story)]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    try:
        upkeep = Upkeep(hand.database, hand.storage)
        while not story.over.is_set() and (
            story.counts["with an index"] < LEAST_SEARCHES or story.counts["builds"] < BUILDS
        ):
            if story.counts["with an index"] >= story.counts["builds"] * LEAST_SEARCHES / BUILDS:
                job = hand.submit(kind=JobKind.INDEX, params={"index": "hnsw"})
                while hand.view(job).finished_at is None and not story.over.is_set():
                    crew.work()
                story.counts["builds"] += 1
            story.counts["steps behind"] += index_rows.catch_up_all(hand.database, 0.5)
            upkeep.run(0.2)
    finally:
        story.over.set()
        for thread in threads:
            thread.join()
    print(story.counts)
    assert story.problems == []
    assert story.counts["steps behind"] > 0
    states = hand.database.read(indexes.of, [collection.id])[collection.id]
    assert [state.status for state in states] == [IndexStatus.READY]
