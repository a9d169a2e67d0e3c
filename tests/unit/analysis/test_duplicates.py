"""Near-duplicates: reasons, groups, the kept one, verdicts, leaks; the line against Cleanlab's."""

from __future__ import annotations

import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleanlab.datalab.internal.issue_manager.duplicate import NearDuplicateIssueManager
from scipy.sparse import csr_matrix

from imagekin import errors
from imagekin_worker.analysis import groups, hashes
from imagekin_worker.analysis.duplicates import Duplicates, Other, Verdict
from imagekin_worker.analysis.findings import Found, Reason
from imagekin_worker.analysis.groups import Images
from imagekin_worker.matrix import view

DIM = 64
FAR = (1 << 64) - 1


class Collection:
    """Drawn images: each `add` is a vector at a cosine to another's, with signs of one's choice."""

    def __init__(self, strangers: int = 40, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.rows: list[np.ndarray] = []
        self.signs: list[tuple[int, int, np.ndarray]] = []
        self.about: list[dict] = []
        for number in range(strangers):
            self.add(f"stranger {number:02}")

    def add(
        self, key: str, like: str | None = None, cosine: float = 0.0, bits: int = 64, same: bool = False, **about: Any
    ) -> None:
        row = self.random.standard_normal(DIM)
        code, mirror = (int(one) for one in self.random.integers(0, 1 << 63, 2))
        gray = self.random.integers(0, 256, hashes.GRAY_DIM).astype(np.uint8)
        if like is not None:
            at = [one["key"] for one in self.about].index(like)
            base = self.rows[at] / np.linalg.norm(self.rows[at])
            row -= (row @ base) * base
            row = cosine * base + np.sqrt(max(0.0, 1 - cosine**2)) * row / np.linalg.norm(row)
            if bits < 64:
                code = self.signs[at][0] ^ ((1 << bits) - 1)
            gray = self.signs[at][2] if same else gray
            if about.pop("flipped", False):
                mirror, code = self.signs[at][0], self.signs[at][1]
        self.rows.append(row.astype(np.float32))
        self.signs.append((code, mirror, gray))
        self.about.append({"key": key, "content": key, "pixels": 100, "nbytes": -1} | about)

    def images(self) -> Images:
        def column(name: str, default: float, dtype: type) -> np.ndarray:
            return np.array([one.get(name, default) for one in self.about], dtype)

        return Images(
            [one["key"] for one in self.about],
            [one["content"] for one in self.about],
            np.array([code for code, _, _ in self.signs], np.uint64),
            np.array([mirror for _, mirror, _ in self.signs], np.uint64),
            column("pixels", 100, np.int64),
            column("lossless", 0, np.bool_),
            column("nbytes", -1, np.int64),
            column("metadata", 0, np.int64),
            column("created", 0, np.float64),
        )

    def search(self, tmp_path: Path, threshold: float | None = 0.93, **options: Any) -> Duplicates:
        grays = np.stack([gray for *_, gray in self.signs])
        options.setdefault("thumbnails", lambda index: grays[index])
        rows = np.stack(self.rows)
        return Duplicates(
            rows,
            view.raw("space", DIM, len(rows)),
            self.images(),
            memory_budget_bytes=1 << 26,
            folder=tmp_path,
            threshold=threshold,
            **options,
        )

    def found(self, tmp_path: Path, **options: Any) -> Found:
        search = self.search(tmp_path, **options)
        search.advance()
        return search.result()

    def grouped(self, found: Found) -> list[tuple[str, str, dict[str, str]]]:
        keys = [one["key"] for one in self.about]
        return [
            (keys[one.keep], one.because, {keys[member.row]: str(member.reason) for member in one.members[1:]})
            for one in found.groups
        ]


def test_each_sign_has_its_reason(tmp_path: Path) -> None:
    drawn = Collection()
    drawn.add("bytes", "stranger 00", 1.0, 0, same=True, content="stranger 00")
    drawn.add("encoded", "stranger 01", 0.7, 2, same=True)
    drawn.add("mirrored", "stranger 02", 0.95, flipped=True)
    drawn.add("cropped", "stranger 03", 0.94)
    drawn.add("hash alone", "stranger 04", 0.5, 4)
    drawn.add("cosine alone", "stranger 05", 0.90)
    found = drawn.found(tmp_path)
    assert drawn.grouped(found) == [
        ("bytes", "key", {"stranger 00": "identical"}),
        ("cropped", "key", {"stranger 03": "edited"}),
        ("encoded", "key", {"stranger 01": "same"}),
        ("mirrored", "key", {"stranger 02": "mirrored"}),
    ]
    assert found.duplicates == 4 and found.by_reason == dict.fromkeys(Reason, 1) | {"verdict": 0}
    assert [(look.a, look.b) for look in found.look] == [(5, 45)]
    kept = found.groups[2].members
    assert kept[0].reason is None and kept[1].hash_bits == 2 and kept[1].correlation == 1
    assert kept[1].score == pytest.approx(0.7, abs=1e-5)


def test_close_by_hash_and_thumbnails_only_partly_is_to_be_looked_at(tmp_path: Path) -> None:
    drawn = Collection()
    drawn.add("same hash range", "stranger 04", 0.1, 6, same=True)
    found = drawn.found(tmp_path)
    assert not found.groups and [(look.a, look.hash_bits) for look in found.look] == [(4, 6)]


def test_no_chains_and_the_densest_first(tmp_path: Path) -> None:
    drawn = Collection()
    # a path: each is near the next alone
    drawn.rows[0] = np.eye(DIM, dtype=np.float32)[0]
    for step, angle in enumerate((0.3, 0.6, 0.9, 1.2)):
        drawn.add(f"step {step}", cosine=0)
        axes = np.eye(DIM, dtype=np.float32)
        drawn.rows[-1] = (np.cos(angle) * axes[0] + np.sin(angle) * axes[1]).astype(np.float32)
    rows = np.stack(drawn.rows)
    found = drawn.found(tmp_path)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for group in found.groups:
        assert all(unit[group.keep] @ unit[member.row] >= 0.93 for member in group.members)
    assert drawn.grouped(found) == [
        ("step 0", "key", {"step 1": "edited", "stranger 00": "edited"}),
        ("step 2", "key", {"step 3": "edited"}),
    ]


@pytest.mark.parametrize(
    ("better", "because"),
    [
        ({"pixels": 101}, "more pixels"),
        ({"lossless": True}, "lossless"),
        ({"nbytes": 11}, "more bytes"),
        ({"metadata": 3}, "more metadata"),
        ({"created": -1}, "older"),
        ({}, "key"),
    ],
)
def test_which_to_keep(better: dict, because: str, tmp_path: Path) -> None:
    drawn = Collection()
    drawn.about[0] |= {"nbytes": 10}
    drawn.add("another", "stranger 00", 0.96, **{"nbytes": 10, **better})
    (group,) = drawn.grouped(drawn.found(tmp_path))
    assert group[:2] == ("another", because)


def test_bytes_that_are_not_known_decide_nothing() -> None:
    drawn = Collection(2)
    drawn.about[0] |= {"nbytes": 10}
    drawn.about[1] |= {"metadata": 1}
    assert groups.best(drawn.images(), [0, 1]) == (1, "more metadata")


def test_verdicts_are_obeyed(tmp_path: Path) -> None:
    drawn = Collection()
    drawn.add("near", "stranger 00", 0.97)
    drawn.add("far", "stranger 01", 0.1)
    drawn.add("third", "near", 0.99)
    verdicts = [
        Verdict("stranger 00", "near", same=False),
        Verdict("far", "stranger 01", same=True),
        Verdict("gone", "near", same=True),
    ]
    found = drawn.found(tmp_path, verdicts=verdicts)
    grouped = drawn.grouped(found)
    assert ("far", "key", {"stranger 01": "verdict"}) in grouped
    assert all({"stranger 00", "near"} - {keep, *members} for keep, _, members in grouped)
    assert not any({look.a, look.b} == {0, 40} for look in found.look)


def test_between_values_only(tmp_path: Path) -> None:
    drawn = Collection()
    drawn.add("leak", "stranger 00", 0.95)
    drawn.add("inside", "stranger 01", 0.95)
    drawn.add("bytes leak", "stranger 02", 1.0, 0, same=True, content="stranger 02")
    drawn.add("near leak", "stranger 03", 0.90)
    split = ["train"] * 40 + ["test", "train", "test", "test"]
    found = drawn.found(tmp_path, between=split)
    assert [(keep, members) for keep, _, members in drawn.grouped(found)] == [
        ("bytes leak", {"stranger 02": "identical"}),
        ("leak", {"stranger 00": "edited"}),
    ]
    assert [(look.a, look.b) for look in found.look] == [(3, 43)]


def test_against_another_collection(tmp_path: Path) -> None:
    drawn, others = Collection(), Collection(10, seed=1)
    drawn.add("own pair", "stranger 00", 0.99)
    others.rows[3] = drawn.rows[5] + 0.01
    others.about[4]["content"] = drawn.about[6]["content"]
    others.rows[4], others.signs[4] = drawn.rows[6], drawn.signs[6]
    grays = np.stack([gray for *_, gray in drawn.signs + others.signs])
    search = drawn.search(
        tmp_path, against=Other(np.stack(others.rows), others.images()), thumbnails=lambda index: grays[index]
    )
    search.advance()
    found = search.result()
    assert [(one.keep, [(member.row, member.reason) for member in one.members[1:]]) for one in found.groups] == [
        (44, [(5, Reason.EDITED)]),
        (45, [(6, Reason.IDENTICAL)]),
    ]
    assert found.images == 41 and found.duplicates == 2


def test_the_line_is_cleanlabs(tmp_path: Path) -> None:
    drawn = Collection(200)
    drawn.add("near", "stranger 00", 0.95)
    found = drawn.found(tmp_path, threshold=None)
    unit = np.stack(drawn.rows).astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)[:, :10]
    graph = csr_matrix(
        (np.take_along_axis(distances, order, 1).ravel(), order.ravel(), np.arange(0, 10 * len(unit) + 1, 10))
    )
    lab = types.SimpleNamespace(get_info=lambda _name: {})
    theirs = NearDuplicateIssueManager(lab, metric="cosine")  # pyright: ignore[reportArgumentType]
    theirs.find_issues(knn_graph=graph)
    median = theirs.info["median_distance_to_nearest_neighbor"]
    assert found.threshold == pytest.approx(1 - 0.13 * median, abs=1e-7)
    flagged = set(np.flatnonzero(theirs.issues["is_near_duplicate_issue"]).tolist())
    assert flagged == {member.row for group in found.groups for member in group.members} == {0, 200}


def test_copies_do_not_move_the_line(tmp_path: Path) -> None:
    """A collection with each image thrice has nearly the line that it has with each once."""
    drawn = Collection(60)
    alone = drawn.found(tmp_path, threshold=None).threshold
    for number in range(60):
        drawn.add(f"copy {number}", f"stranger {number:02}", 0.98, 2, same=True)
        drawn.add(f"cut {number}", f"stranger {number:02}", 0.95, 12)
    assert drawn.found(tmp_path, threshold=None).threshold == pytest.approx(alone, abs=0.01)


def test_histogram_and_examples(tmp_path: Path) -> None:
    drawn = Collection()
    for number, cosine in enumerate((0.99, 0.94, 0.9, 0.85)):
        drawn.add(f"near {number}", f"stranger {number:02}", cosine)
    found = drawn.found(tmp_path)
    assert sum(found.counts) == 44 and len(found.edges) == len(found.counts) + 1
    assert found.counts[-1] == 2
    scores = [example.score for example in found.examples]
    assert scores == sorted(scores, reverse=True) and len(scores) >= 4
    np.testing.assert_allclose(scores[:4], [0.99, 0.94, 0.9, 0.85], atol=1e-5)


@pytest.mark.parametrize("against", [False, True])
def test_the_same_after_kills(against: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagekin_worker.analysis.pairs.QUERY_ROWS", 16)
    monkeypatch.setattr("imagekin_worker.analysis.duplicates.SIGNED_PAIRS", 2)
    drawn, others = Collection(), Collection()
    for number in range(12):
        drawn.add(f"near {number}", f"stranger {number:02}", 0.9 + number / 200, 3 * number, same=number % 2 == 0)
    grays = np.stack([gray for *_, gray in drawn.signs + others.signs])
    options: dict[str, Any] = {"thumbnails": lambda index: grays[index]}
    if against:
        options["against"] = Other(np.stack(others.rows), others.images())
    straight = drawn.found(tmp_path, threshold=None, **options)
    search, phases, fraction = drawn.search(tmp_path, None, **options), [], 0.0
    while not search.finished:
        phases.append(search.phase)
        before = search.state()
        while search.state() == before and not search.advance(lambda: True):
            pass
        assert search.fraction >= fraction
        fraction, state = search.fraction, search.state()
        search = drawn.search(tmp_path, None, **options)
        search.restore(state)
    assert search.result() == straight and straight.groups
    assert np.array_equal(search.result().pairs, straight.pairs)
    assert {*phases} == {"nearest", "pairs", "hashes", "signs"} and search.fraction == 1


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_images(n: int, tmp_path: Path) -> None:
    drawn = Collection(3)
    images = drawn.images()
    few = Images(*((value[:n]) for value in vars(images).values()))
    search = Duplicates(
        np.stack(drawn.rows)[:n],
        view.raw("space", DIM, n),
        few,
        thumbnails=lambda index: np.stack([drawn.signs[row][2] for row in index]),
        memory_budget_bytes=1 << 20,
        folder=tmp_path,
    )
    with pytest.raises(errors.JobError):
        search.result()
    search.advance()
    found = search.result()
    assert not found.groups and found.images == n and (found.median_distance is None) == (n < 2)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    drawn = Collection(5)
    with pytest.raises(errors.InvalidRequest):
        drawn.search(tmp_path, threshold=1.5)
    with pytest.raises(errors.InvalidRequest):
        drawn.search(tmp_path, between=["train"])
    state = drawn.search(tmp_path).state()
    drawn.add("more")
    with pytest.raises(errors.JobError):
        drawn.search(tmp_path).restore(state)
    assert replace(Verdict("a", "b", True), same=False) == Verdict("a", "b", False)
