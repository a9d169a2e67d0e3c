"""Plannings that take long: each slice ends, what others sent is planned between two of them, and all end."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pytest

from imagekin.database import tables
from imagekin.database.engine import Database
from imagekin.enums import JobStatus, Lane
from imagekin.jobs import items
from imagekin.schemas.kinds import PLAN
from imagekin.settings import Settings
from imagekin.sources.base import Pace
from imagekin.uploads.files import Storage
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import plan
from imagekin_worker.process import dispatch
from kit.hand import Hand
from kit.packing import PICTURE, member, tarred

BLANKS = 20


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture(autouse=True)
def shortest_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every slice end with the first thing that its source gives, and sources pause wherever they may."""
    monkeypatch.setattr(plan, "SLICE_S", -1.0)
    monkeypatch.setattr(Pace, "PAUSE_S", -1.0)


@pytest.fixture
def make_node(settings: Settings, database: Database) -> Iterator[Callable[[], Node]]:
    nodes: list[Node] = []

    def make() -> Node:
        nodes.append(Node(settings.model_copy(update={"lanes": 1}), Lane.BULK))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


def blank_list() -> bytes:
    """A list with nothing in it for long, and then a picture that is not there."""
    return b'{"path": "0.png"}\n' + b"\n" * BLANKS + b'{"path": "1.png"}\n'


def linked_tar() -> bytes:
    """A tar that is read again from its start for the hard link at its end."""
    link = member("z.png", b"", type=tarfile.LNKTYPE, linkname="7.png")
    return tarred(*(member(f"{n}.png", PICTURE + bytes([n])) for n in range(BLANKS)), link)


def submit(hand: Hand, data: bytes, kind: str, prefix: str | None = None) -> str:
    id = tables.new_id()
    hand.storage.write(id, [data], 1 << 30)
    return hand.submit(work={"source": {"type": kind, "upload_id": id, "path": id, "prefix": prefix}}).id


def claims(node: Node) -> Iterator[tuple[str, str]]:
    """Work until nothing is left; yield the kind and the job of each claim, done."""
    while claims := node.claim(f"ring-{tables.new_id()}/x"):
        with node.lease(claims) as lease:
            dispatch.do(node, claims, lease)
        yield claims[0].kind, claims[0].job_id


def job(node: Node, id: str) -> tables.Job:
    return node.database.read(lambda session: session.get_one(tables.Job, id))


def test_a_slow_source_holds_up_no_other_planning(hand: Hand, make_node: Callable[[], Node]) -> None:
    node = make_node()
    slow = [submit(hand, blank_list(), "manifest") for _ in range(2)]
    quick = [submit(hand, PICTURE, "upload") for _ in range(3)]
    turns = [id for kind, id in claims(node) if kind == PLAN]
    for id in quick:
        ended = len(turns) - turns[::-1].index(id)
        assert ended <= 3 * (len(slow) + len(quick))
        assert job(node, id).status == JobStatus.SUCCEEDED
    for id in slow:
        assert turns.count(id) >= BLANKS
        assert (job(node, id).total, job(node, id).failed) == (2, 2)


def test_a_source_is_read_on_where_the_slice_before_left_it(
    hand: Hand, make_node: Callable[[], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def note(storage: Storage, name: str, real: Callable[..., BinaryIO] = Storage.open) -> BinaryIO:
        opened.append(name)
        return real(storage, name)

    monkeypatch.setattr(Storage, "open", note)
    node = make_node()
    id = submit(hand, linked_tar(), "upload")
    slices, to_plan = 0, 0
    for kind, _ in claims(node):
        slices, to_plan = slices + (kind == PLAN), to_plan + (kind == PLAN) * len(opened)
        opened.clear()
    assert slices > BLANKS
    assert to_plan == 1
    assert job(node, id).total == BLANKS + 1


def test_another_process_goes_on_from_the_cursor(hand: Hand, make_node: Callable[[], Node]) -> None:
    id = submit(hand, blank_list(), "manifest")
    node, other = make_node(), make_node()
    for _ in range(BLANKS):
        for each in (node, other):
            next(claims(each), None)
    for _ in claims(node):
        pass
    assert (job(node, id).total, job(node, id).failed) == (2, 2)


def test_jobs_by_prefix_are_planned_at_the_same_time(hand: Hand, make_node: Callable[[], Node]) -> None:
    lines = b"".join(b'{"path": "%c/%d.png"}\n' % (name, n) for n in range(BLANKS) for name in b"ab")
    jobs = [submit(hand, lines, "manifest", prefix) for prefix in ("a/", "b/")]
    nodes = [make_node(), make_node()]
    held = [node.claim("ring/x") for node in nodes]
    assert [(claim.kind, claim.job_id) for claims in held for claim in claims] == [(PLAN, id) for id in jobs]
    for node, claimed in zip(nodes, held, strict=True):
        with node.lease(claimed) as lease:
            dispatch.do(node, claimed, lease)
    for node in nodes:
        for _ in claims(node):
            pass
    for id, name in zip(jobs, "ab", strict=True):
        found, _ = nodes[0].database.read(
            lambda session, id=id: items.page(session, job(nodes[0], id), None, None, 100)
        )
        assert [item.key for item in found] == [f"{name}/{n}.png" for n in range(BLANKS)]
