"""`imagekin bench`: every goal has its row, with a figure or the reason why there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.bench import analyses, command, forward, measuring, original, pictures, rows, sizes, timing
from imagekin_worker.bench.activity import Activity
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure, Goal, Outcome, Row
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network import devices

GOALS = {
    "forward": ">= 1.7",
    "pipeline": ">= 0.92",
    "overhead": "<= 0.05",
    "against-forward": ">= 0.88",
    "original-class": ">= 6",
    "large-photos": ">= 2",
    "exact": ">= 1.1",
    "fast": ">= 1.3",
    "search-job": "<= 2",
    "idle": "<= 1",
    "search": ">= 1",
    "search-64": ">= 1",
    "kmeans": "<= 1.5",
    "kmeans-pytorch": ">= 10",
    "duplicates": "<= 1.3",
    "outliers": "<= 1.3",
    "outliers-duplicates": "<= 1.5",
    "diverse": "<= 2",
    "map": "<= 1",
    "labels": "<= 1",
    "load": ">= 0.5",
    "memory": "<= 1.1",
    "forward-gpu": ">= 1.5",
    "pipeline-gpu": ">= 0.85",
    "against-forward-gpu": ">= 0.5",
    "original-class-gpu": ">= 50",
    "kmeans-gpu": "<= 1.5",
    "kmeans-pytorch-gpu": ">= 20",
}
FIGURES = ("measured", "ideal", "unit", "ratio", "met", "limit")
CHEAP = ("kmeans", "load", "search")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "imagekin", "bench", *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=170, check=False)


def test_a_quick_run_has_a_figure_or_a_reason_for_every_goal(tmp_path: Path) -> None:
    asked = [argument for name in (*CHEAP, "kmeans-gpu") for argument in ("--only", name)]
    run = bench("--quick", "--json", "--data-dir", str(tmp_path), *asked)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["quick"] is True
    assert report["machine"]["cores"] >= 1
    assert {"python", "torch", "imagekin"} <= report["versions"].keys()
    found = {row["name"]: row for row in report["rows"]}
    assert {name: row["goal"] for name, row in found.items()} == GOALS
    for name, row in found.items():
        given = [row[figure] is not None for figure in FIGURES]
        assert all(given) or not any(given), name
        assert all(given) == (row["reason"] is None), name
    assert found["load"]["ratio"] > 0
    assert found["memory"]["reason"] == "not asked for (--only)"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_row_is_a_wrong_call_that_names_the_others() -> None:
    with pytest.raises(typer.BadParameter, match=r"no row 'speed'.*large-photos"):
        command.bench(only=["speed"])


def test_a_goal_is_a_bound_from_below_or_above() -> None:
    assert Goal(2).met_by(2)
    assert not Goal(2).met_by(1.9)
    assert Goal(2, at_least=False).met_by(1.9)
    assert not Goal(2, at_least=False).met_by(2.1)


def test_a_quality_that_speed_cost_breaks_the_goal() -> None:
    row = Row("row", "what", "cpu", Goal(1), lambda _: pytest.fail("not called"))
    assert Outcome(row, Figure(2, 1, "ms", 2, "limit")).met is True
    assert Outcome(row, Figure(2, 1, "ms", 2, "limit", breach="cosine too low")).met is False
    assert Outcome(row, reason="no GPU").met is None


def test_names_are_unique() -> None:
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)


def test_analyses_are_held_against_the_products_of_their_own_rows(workbench: Workbench) -> None:
    rows, which = analyses.rows_of(400)
    again, _ = analyses.rows_of(400)
    assert np.array_equal(rows, again) and rows.shape == (400, 1280) and rows.min() >= 0
    assert np.allclose(rows[1::50], rows[:-1:50] * 1.01) and len(set(which)) > 100
    found = analyses.diverse(workbench)
    assert found.ratio == found.measured / found.ideal > 0
    assert found.details == {"rows": sizes.QUICK.pair_rows, "selected": sizes.QUICK.selected}


def test_pictures_are_the_same_each_time_and_no_two_alike(tmp_path: Path) -> None:
    first, again = (pictures.draw(tmp_path / name, 6, (64, 48), seed=1, drawn=2) for name in ("first", "again"))
    contents = [path.read_bytes() for path in first]
    assert contents == [path.read_bytes() for path in again]
    assert len(set(contents)) == 6
    shown = [np.asarray(Image.open(path)) for path in first]
    assert shown[0].shape == (48, 64, 3)
    assert np.array_equal(shown[0], shown[2])
    assert not np.array_equal(shown[0], shown[1])


def test_a_rate_counts_the_work_of_all_threads() -> None:
    one = timing.rate(lambda: time.sleep(0.005) or 1, 0.1)
    assert 50 < one <= 200
    assert timing.rate(lambda: time.sleep(0.005) or 1, 0.1, threads=4) > 2 * one


def test_measuring_in_turns_gives_medians() -> None:
    order: list[str] = []
    values = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])

    def work(name: str) -> float:
        order.append(name)
        return next(values)

    assert timing.in_turns({"a": lambda: work("a"), "b": lambda: work("b")}, 3) == {"a": 2.0, "b": 20.0}
    assert order == ["a", "b"] * 3


def test_what_others_do_with_the_cores_is_a_share() -> None:
    assert 0 <= measuring.busy_share(0.05) <= 1


def test_a_pass_is_held_against_the_product_of_its_own_threads() -> None:
    lanes, joint = forward.Configuration(2, 1, 4), forward.Configuration(1, 2, 8)
    survey = forward.Survey(8.0, {lanes: 20.0, joint: 16.0}, 10.0, {(2, 1): 250.0, (1, 2): 240.0})
    assert (survey.best, survey.gain, survey.product, survey.ceiling) == (lanes, 2.5, 250.0, 25.0)
    assert "200 GFLOP/s (10 GFLOP an image), 80% of the bare matrix product's 250" in survey.roofline


@pytest.fixture(scope="module")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    with Workbench(tmp_path_factory.mktemp("bench"), sizes.QUICK, Settings(), "cpu", ()) as opened:
        yield opened


def test_on_a_gpu_everything_is_fast_and_compiled(tmp_path: Path) -> None:
    """As the goals have it: half precision against eager half precision."""
    with Workbench(tmp_path, sizes.QUICK, Settings(), "cuda", ()) as bench:
        assert bench.space(DEFAULT).precision is Precision.FAST
        assert 0 < bench.settings.compile_after_s <= forward.LOOK_S
    with Workbench(tmp_path, sizes.QUICK, Settings(), "cpu", ()) as bench:
        assert bench.space(DEFAULT).precision is Precision.EXACT
        assert bench.settings.compile_after_s == 0


def test_the_operations_of_a_pass_are_counted(workbench: Workbench) -> None:
    # torchvision's documentation: 4.09e9 products, of which the head has 2 million
    assert forward.gflop(workbench, RESNET) == pytest.approx(2 * 4.09, rel=0.01)


def test_the_class_says_what_its_memory_costs(workbench: Workbench, tmp_path: Path) -> None:
    files = pictures.draw(tmp_path, 2, (300, 240), seed=1)
    cost = original.cost(files, workbench.space(RESNET), workbench.settings, "cpu")
    assert 0 < cost.decode_ms < 1000 / cost.rate
    assert cost.new_mib > 20


def test_activity_tells_work_from_rest() -> None:
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            pass

    try:
        activity = Activity(os.getpid())
    except NotMeasured as error:
        pytest.skip(error.detail)
    thread = threading.Thread(target=spin)
    with activity:
        begin = time.time()
        time.sleep(0.3)
        thread.start()
        middle = time.time()
        time.sleep(0.3)
        end = time.time()
        over.set()
        thread.join()
    rest, work = activity.share(begin, middle), activity.share(middle, end)
    assert rest.idle > 0.7
    assert work.idle < rest.idle - 0.1
    assert work.cores > rest.cores
    assert work.others == 0
    assert 0 <= work.stolen <= devices.cores() + 0.1
