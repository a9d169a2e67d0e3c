"""Pictures from addresses, manifests and locations, through HTTP and real workers."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin import Client, errors
from imagekin.enums import ItemStatus, JobStatus
from kit import web
from kit.web import Web

MANY = 60


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection of the test's own."""
    return request.node.name.replace("_", "-").replace("[", "-").replace("]", "")[:100]


@pytest.fixture
def site(name: str) -> Iterator[Web]:
    """A web site with pictures of the test's own at /0.png and on, and some trouble."""
    with web.serve() as site:
        for seed in range(MANY):
            site.pages[f"/{seed}.png"] = web.body(picture(name, seed))
        site.pages["/moved"] = web.redirect("/1.png")
        site.pages["/inside"] = web.redirect("http://10.0.0.1/secret.png")
        site.pages["/broken.png"] = web.body(picture(name, 0)[:60])
        site.pages["/silent.png"] = web.raw(b"", until=site.stopping)
        site.pages["/empty.png"] = web.body(b"")
        yield site


def picture(name: str, seed: int) -> bytes:
    noise = np.random.default_rng([seed, *name.encode()]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC).save(target, "PNG")
    return target.getvalue()


def test_addresses(client: Client, site: Web, name: str) -> None:
    urls = [
        {"url": site.url("/0.png")},
        {"url": site.url("/moved"), "key": "moved", "metadata": {"year": 1999, "by": None}},
        {"url": site.url("/gone.png")},
        {"url": site.url("/inside")},
        {"url": "http://169.254.169.254/latest/meta-data/"},
        {"url": "ftp://example.org/a.png"},
        {"url": site.url("/broken.png")},
        {"url": site.url("/silent.png")},
        {"url": site.url("/empty.png")},
        {"url": site.url("/2.png"), "key": "moved"},
    ]
    job = client.embed(urls, collection=name, backbone="fake").wait()
    assert job.status == JobStatus.PARTIAL
    assert job.params["source"] == {"type": "urls", "count": len(urls)}
    items = list(job.items())
    assert [(item.key, item.error and item.error.code) for item in items] == [
        (site.url("/0.png"), None),
        ("moved", None),
        (site.url("/gone.png"), "fetch_failed"),
        (site.url("/inside"), "fetch_refused"),
        ("http://169.254.169.254/latest/meta-data", "fetch_refused"),
        ("ftp://example.org/a.png", "fetch_refused"),
        (site.url("/broken.png"), "decode_error"),
        (site.url("/silent.png"), "timeout"),
        (site.url("/empty.png"), "empty_file"),
        ("moved", "duplicate_key"),
    ]
    assert items[2].error is not None
    assert "404" in items[2].error.detail
    metadata = {image.key: image.metadata for image in client.images(name)}
    assert metadata == {site.url("/0.png"): {}, "moved": {"year": 1999, "by": None}}


def test_what_failed_is_fetched_again(client: Client, site: Web, name: str) -> None:
    site.pages["/late.png"] = web.body(b"", 503)
    job = client.embed([site.url("/0.png"), site.url("/late.png")], collection=name, backbone="fake").wait()
    assert [item.error and item.error.code for item in job.items(ItemStatus.FAILED)] == ["fetch_failed"]
    site.pages["/late.png"] = web.body(picture(name, 99))
    again = job.retry().wait()
    assert (again.status, again.progress.total, again.progress.embedded) == (JobStatus.SUCCEEDED, 1, 1)
    assert client.collection(name).image_count == 2


def test_slow_addresses_stop_nobody(client: Client, site: Web, name: str) -> None:
    """More that never answer than threads, among others: each fails alone, in one try."""
    urls = [site.url(f"/{seed}.png") for seed in range(MANY)]
    for at in range(0, MANY, 5):
        urls.insert(at, site.url(f"/silent.png?{at}"))
        site.pages[f"/silent.png?{at}"] = site.pages["/silent.png"]
    job = client.embed(urls, collection=name, backbone="fake").wait()
    assert (job.progress.embedded, job.progress.failed) == (MANY, MANY // 5)
    assert {item.error and item.error.code for item in job.items(ItemStatus.FAILED)} == {"timeout"}
    assert sorted(site.paths) == sorted(url.removeprefix(site.url("")) for url in urls)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_manifests(client: Client, site: Web, readable: Path, tmp_path: Path, name: str, kind: str) -> None:
    (readable / "local.png").write_bytes(picture(name, 50))
    rows = [
        {"url": site.url("/0.png"), "key": "zero", "metadata": {"year": 1999}},
        {"path": str(readable / "local.png"), "key": "local"},
        {"path": "/etc/passwd", "key": "passwd"},
        {"key": "nothing"},
    ]
    path = tmp_path / f"pictures.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "bad\n")
    else:
        path.write_text(
            "key,url,path,metadata\n"
            f'zero,{site.url("/0.png")},,"{{""year"": 1999}}"\n'
            f"local,,{readable}/local.png,\npasswd,,/etc/passwd,\nnothing,,,\nbad\n"
        )
    job = client.embed(path, collection=name, backbone="fake").wait()
    assert [(item.key, item.error and item.error.code) for item in job.items()] == [
        ("zero", None),
        ("local", None),
        ("passwd", "fetch_refused"),
        ("nothing", "decode_error"),
        # a short row lacks the cells at its end, as spreadsheets write it
        ("bad" if kind == "csv" else "line 5", "decode_error"),
    ]
    assert {image.key: image.metadata for image in client.images(name)} == {"zero": {"year": 1999}, "local": {}}


def test_a_location(client: Client, readable: Path, name: str) -> None:
    for seed in range(3):
        (readable / f"{seed}.png").write_bytes(picture(name, seed))
    job = client.embed(readable.as_uri(), collection=name, backbone="fake").wait()
    assert (job.status, job.progress.embedded) == (JobStatus.SUCCEEDED, 3)
    with pytest.raises(errors.SourceRefused):
        client.embed("s3://somebody/elses", collection=name)


def test_search_by_address(client: Client, site: Web, name: str) -> None:
    client.embed(
        [{"url": site.url(f"/{seed}.png"), "key": f"{seed}"} for seed in range(5)], name, backbone="fake"
    ).wait()
    found = client.search(site.url("/3.png"), collection=name, top_k=1)
    assert found.neighbors[0].key == "3"
    assert found.neighbors[0].score > 0.999
    assert found.query == {"url": site.url("/3.png")}
    for path, code in (("/gone.png", "fetch_failed"), ("/inside", "fetch_refused"), ("/silent.png", "timeout")):
        with pytest.raises(errors.ImagekinError) as caught:
            client.search(site.url(path), collection=name)
        assert caught.value.code == code
