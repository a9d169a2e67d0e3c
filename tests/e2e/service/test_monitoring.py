"""Numbers and lines of real processes: scraped before and after jobs, with Celery's own tools, across a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagekin import Client
from imagekin.settings import Settings
from imagekin.stack import Stack, redis
from imagekin.stack.environment import child_environment
from kit.patience import until
from kit.receiving import SECRET

PATIENCE_S = 60
GOOD, BROKEN = 21, 2


@pytest.fixture(scope="module")
def pictures(service_settings: Settings) -> Path:
    """A folder of good and of broken pictures, which the service may read."""
    folder = Path(service_settings.source_roots[0]) / "monitored"
    folder.mkdir()
    random = np.random.default_rng(7)
    for number in range(GOOD):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8)).save(folder / f"{number}.png")
    for number in range(BROKEN):
        (folder / f"broken-{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]) * 100)
    return folder


@pytest.fixture(scope="module")
def said_before(service: Stack, service_settings: Settings) -> dict[str, int]:
    """How long the logs were before these tests: C libraries write lines of their own about hostile pictures."""
    return {log.stem: log.stat().st_size for log in (service_settings.data_dir / "logs").glob("*.log")}


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    return {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    }


def settled(port: int) -> dict[str, float]:
    """Scrape once every claim that was begun is told of as ended: a job ends a little earlier."""

    def all_told() -> dict[str, float] | None:
        numbers = scrape(port)
        begun = sum(value for name, value in numbers.items() if name.startswith("imagekin_claim_chunks_count"))
        ended = sum(value for name, value in numbers.items() if name.startswith("imagekin_claims_total"))
        return numbers if begun == ended else None

    return until(all_told, "the claims' ends")


def lines(settings: Settings, said_before: dict[str, int], name: str) -> list[dict[str, Any]]:
    """Return the lines of a process's log, each of which is JSON."""
    said = (settings.data_dir / "logs" / f"{name}.log").read_bytes()[said_before[name] :]
    return [json.loads(line) for line in said.splitlines()]


def grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0) - before.get(name, 0)


def children(port: int) -> set[int]:
    """Return the pids of a worker's children, by the numbers' own files."""
    folders = [Path(f"/proc/{pid}/environ") for pid in os.listdir("/proc") if pid.isdigit()]  # noqa: PTH208 - names alone
    found = set()
    for environ in folders:
        try:
            variables = environ.read_bytes().split(b"\0")
            cmdline = (environ.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"IMAGEKIN_METRICS_PORT={port}".encode() in variables and b"spawn_main" in cmdline:
            lane = next((each for each in variables if each.startswith(b"IMAGEKIN_LANE=")), b"")
            if lane == b"IMAGEKIN_LANE=interactive":
                found.add(int(environ.parent.name))
    return found


def test_a_job_is_in_the_numbers_of_its_worker(service_settings: Settings, client: Client, pictures: Path) -> None:
    bulk = service_settings.metrics_port + 1
    before = settled(bulk)
    job = client.embed(pictures, collection="numbers", backbone="fake").wait()
    assert job.status == "partial"
    after = settled(bulk)
    for name, count in {
        'imagekin_images_total{status="embedded"}': GOOD,
        'imagekin_images_total{status="failed"}': BROKEN,
        'imagekin_image_errors_total{code="decode_error"}': BROKEN,
        "imagekin_read_seconds_count": GOOD + BROKEN,
        "imagekin_decode_seconds_count": GOOD + BROKEN,
        'imagekin_jobs_ended_total{kind="embed",status="partial"}': 1,
        'imagekin_job_seconds_count{kind="embed"}': 1,
        'imagekin_claim_chunks_count{kind="plan"}': 1,
        "imagekin_claim_images_sum": GOOD + BROKEN,
        "imagekin_leases_lost_total": 0,
        "imagekin_child_deaths_total": 0,
    }.items():
        assert grown(before, after, name) == count, name
    batches = grown(before, after, "imagekin_forward_seconds_count")
    assert batches >= GOOD / 4
    assert grown(before, after, "imagekin_batch_fill_ratio_sum") == pytest.approx(GOOD / 4)
    assert grown(before, after, "imagekin_store_seconds_count") == grown(
        before, after, 'imagekin_claim_chunks_sum{kind="embed"}'
    )
    assert (
        0
        < grown(before, after, "imagekin_decode_seconds_sum")
        < grown(before, after, 'imagekin_claim_seconds_sum{kind="embed"}')
    )
    assert after['imagekin_model_load_seconds_count{backbone="fake"}'] == 1
    assert after["imagekin_children"] == 1
    assert after["imagekin_children_resident_bytes"] > 50e6
    assert after["process_resident_memory_bytes"] > 10e6


def test_every_line_of_a_chunk_names_it_and_each_end_has_one(
    service_settings: Settings, client: Client, pictures: Path, said_before: dict[str, int]
) -> None:
    job = client.embed(pictures, collection="lines", backbone="fake").wait()
    settled(service_settings.metrics_port + 1)
    mine = [line for line in lines(service_settings, said_before, "worker-bulk") if line.get("job_id") == job.id]
    done = [line for line in mine if line["event"] == "chunk_done"]
    assert sum(line["images"] for line in done) == GOOD + BROKEN
    assert sum(line.get("failed", 0) for line in done) == BROKEN
    assert all({"chunk", "attempt", "claim", "seconds", "store_seconds"} <= line.keys() for line in done)
    [end] = [line for line in mine if line["event"] == "job_ended"]
    assert (end["status"], end["total"], end["failed"]) == ("partial", GOOD + BROKEN, BROKEN)
    assert all(line["attempt"] == 1 and "chunk" in line for line in mine)
    posted = [
        line
        for line in lines(service_settings, said_before, "api")
        if line["event"] == "request" and line["job_id"] == job.id
    ]
    assert {"POST", "GET"} <= {line["method"] for line in posted}


def test_a_search_is_in_the_numbers_and_a_killed_child_leaves_them_whole(
    service_settings: Settings, client: Client, pictures: Path
) -> None:
    port = service_settings.metrics_port
    client.embed(pictures, collection="searched", backbone="fake").wait()
    before = settled(port)
    client.search(pictures / "3.png", collection="searched", top_k=2)
    after = settled(port)
    assert grown(before, after, 'imagekin_jobs_ended_total{kind="search",status="succeeded"}') == 1
    assert grown(before, after, 'imagekin_job_seconds_count{kind="search"}') == 1
    assert grown(before, after, "imagekin_product_searches_sum") == 1
    assert after["imagekin_matrix_bytes"] >= GOOD * 64 * 4
    [child] = children(port)
    os.kill(child, signal.SIGKILL)
    until(lambda: children(port) - {child}, "another child")
    until(lambda: scrape(port)["imagekin_children"] == 1, "the other child to have numbers")
    later = scrape(port)
    assert later["imagekin_matrix_bytes"] == 0
    ended = 'imagekin_jobs_ended_total{kind="search",status="succeeded"}'
    assert later[ended] == after[ended]
    client.search(pictures / "3.png", collection="searched", top_k=2)
    assert settled(port)[ended] == after[ended] + 1


def test_celerys_own_tools_work(service_settings: Settings, service: Stack) -> None:
    answer = celery(service_settings, service, "inspect", "stats")
    assert answer.returncode == 0, answer.stderr
    assert "interactive." in answer.stdout
    assert "bulk." in answer.stdout
    assert "pool" in answer.stdout


def celery(settings: Settings, service: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert service._socket is not None
    env = child_environment(settings.model_copy(update={"redis_url": redis.url(service._socket)}))
    command = [sys.executable, "-m", "celery", "-A", "imagekin_worker.process.app", *arguments, "--timeout", "5"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_what_flower_listens_to_is_sent(
    service_settings: Settings, service: Stack, client: Client, pictures: Path
) -> None:
    from imagekin import doorbell

    assert service._socket is not None
    client.embed(pictures, collection="heard", backbone="fake").wait()
    app = doorbell.celery_app(service_settings.model_copy(update={"redis_url": redis.url(service._socket)}))
    wanted = {"worker-heartbeat", "task-received", "task-started", "task-succeeded"}
    heard: set[str] = set()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: heard.add(event["type"])})
        deadline = time.monotonic() + PATIENCE_S
        for _ in receiver.itercapture(timeout=PATIENCE_S):
            if "worker-heartbeat" in heard and "task-received" not in heard:
                client.cluster("heard", n_clusters=2)
            if wanted <= heard or time.monotonic() > deadline:
                break
    app.close()
    assert wanted <= heard


def test_logs_are_json_without_banners_chatter_and_secrets(
    service_settings: Settings, client: Client, pictures: Path, said_before: dict[str, int]
) -> None:
    client.embed(pictures, collection="quiet", backbone="fake").wait()
    for name in ("worker-bulk", "worker-interactive", "api"):
        events = lines(service_settings, said_before, name)
        assert events
        assert all({"event", "level", "timestamp", "logger"} <= line.keys() for line in events)
        text = json.dumps(events)
        assert service_settings.first_key and service_settings.first_key not in text
        assert SECRET not in text
        for word in ("Task imagekin.ring", "superuser", "[queues]"):
            assert word not in text
