"""Search by several against the formula, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest

from imagekin import errors
from imagekin_worker.analysis import refinement
from imagekin_worker.matrix import view
from kit.overlapping import kinds

ROWS, LABELS = kinds(400)
VIEW = view.of(ROWS, "space")
SEEN = VIEW.exact(ROWS)
NONE = SEEN[:0]


def precision(direction: np.ndarray, kind: int, judged: np.ndarray, top: int = 20) -> float:
    scores = VIEW.exact(ROWS) @ direction
    scores[judged] = -np.inf
    return float((LABELS[np.argsort(-scores)[:top]] == kind).mean())


def test_rocchio_is_the_formula() -> None:
    positives, negatives = ROWS[:4], ROWS[4:7]
    expected = VIEW.exact(positives).mean(0) - 0.5 * VIEW.exact(negatives).mean(0)
    found = refinement.rocchio(VIEW.exact(positives), VIEW.exact(negatives))
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-12)
    one = refinement.rocchio(SEEN[:1], NONE)
    np.testing.assert_allclose(one, VIEW.transform_query(ROWS[0]), atol=1e-12)


def test_verdicts_make_searches_better() -> None:
    gains: dict[str, list[float]] = {"rocchio": [], "logistic": []}
    for query in range(30):
        kind = LABELS[query]
        order = np.argsort(-(VIEW.exact(ROWS) @ VIEW.exact(ROWS[query : query + 1])[0]))
        right, wrong = order[LABELS[order] == kind][:6], order[LABELS[order] != kind][:5]
        judged = np.concatenate([right, wrong])
        alone = precision(VIEW.exact(ROWS[query : query + 1])[0], kind, judged)
        others = np.setdiff1d(refinement.drawn(400), right)
        gains["rocchio"].append(precision(refinement.rocchio(SEEN[right], SEEN[wrong]), kind, judged) - alone)
        learned = refinement.logistic(SEEN[right], SEEN[wrong], SEEN[others])
        gains["logistic"].append(precision(learned, kind, judged) - alone)
    assert np.mean(gains["rocchio"]) > 0.1 and np.mean(gains["logistic"]) > 0.1


def test_what_is_asked_teaches_more_than_chance() -> None:
    asked, by_chance = [], []
    random = np.random.default_rng(0)
    for query in range(40):
        kind = LABELS[query]
        start = np.array([query])
        others = np.setdiff1d(refinement.drawn(400), start)
        scores = VIEW.exact(ROWS) @ VIEW.exact(ROWS[start])[0]
        candidates = np.argsort(-scores)[1:200]
        chosen = candidates[refinement.ask(SEEN[start], NONE, SEEN[others], SEEN[candidates])]
        assert len(chosen) == len(set(chosen.tolist())) == 12
        for some, results in ((chosen, asked), (random.choice(candidates, 12, replace=False), by_chance)):
            right = np.concatenate([start, some[LABELS[some] == kind]])
            learned = refinement.rocchio(SEEN[right], SEEN[some[LABELS[some] != kind]])
            results.append(precision(learned, kind, np.union1d(chosen, right)))
    assert np.mean(asked) > np.mean(by_chance)


def test_few_candidates_are_all_asked_about() -> None:
    assert sorted(refinement.ask(SEEN[:2], NONE, SEEN[100:150], SEEN[2:7])) == [0, 1, 2, 3, 4]
    assert not len(refinement.ask(SEEN[:2], NONE, SEEN[100:150], NONE))


def test_what_is_drawn_hangs_on_the_seed() -> None:
    assert len(refinement.drawn(1000)) == 200 and (refinement.drawn(1000) == refinement.drawn(1000)).all()
    assert (refinement.drawn(1000, 1) != refinement.drawn(1000, 2)).any()
    assert refinement.drawn(5).tolist() == [0, 1, 2, 3, 4]


def test_a_search_needs_a_positive() -> None:
    with pytest.raises(errors.InvalidRequest):
        refinement.rocchio(NONE, SEEN[:3])
    with pytest.raises(errors.InvalidRequest):
        refinement.logistic(NONE, SEEN[:3], SEEN[:3])
    with pytest.raises(errors.InvalidRequest):
        refinement.logistic(SEEN[:3], NONE, NONE)
