"""Manifests: JSONL and CSV, good and bad, from every place on; lists of addresses, which are kept as such."""

from __future__ import annotations

import gzip
import itertools
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from imagekin import errors, sources
from imagekin.settings import Settings
from imagekin.sources import Entry, Source, urls
from imagekin.sources.lines import MAX_LINE_BYTES
from imagekin.uploads.files import Storage
from kit.packing import entries_of

Open = Callable[..., Source]

PLANNED_LINES = 200_000
MOST_BYTES_PLANNING = 4 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def opened(tmp_path: Path, root: Path) -> Open:
    settings = Settings(data_dir=tmp_path / "data", source_roots=(str(root),))
    storage = Storage(settings)

    def opened(data: bytes | str, kind: str = "manifest", prefix: str | None = None, **changes: Any) -> Source:
        storage.write("uploads/u1", [data.encode() if isinstance(data, str) else data], 1 << 30)
        spec = {"type": kind, "upload_id": "u1", "path": "uploads/u1", "prefix": prefix}
        return sources.open_source(spec, storage, settings.model_copy(update=changes))

    return opened


def jsonl(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def summary(entry: Entry) -> tuple[str, str | None, dict | None]:
    return entry.key, entry.error and entry.error.code, entry.metadata


RECORDS = [
    {"url": "https://example.org/a.png"},
    {"url": "https://example.org/b.png", "key": "b", "metadata": {"year": 1999, "tags": ["x"]}},
    {"path": "deep/c.png"},
    {"path": "deep/c.png", "key": "bü/c", "metadata": {}},
]
CSV = """key,url,path,metadata
,https://example.org/a.png,,
b,https://example.org/b.png,,"{""year"": 1999, ""tags"": [""x""]}"
,,deep/c.png,
bü/c,,deep/c.png,{}
"""
MEANT = [
    ("https://example.org/a.png", None, None),
    ("b", None, {"year": 1999, "tags": ["x"]}),
    ("deep/c.png", None, None),
    ("bü/c", None, {}),
]


@pytest.mark.parametrize(
    "data",
    [
        jsonl(*RECORDS),
        jsonl(*RECORDS).rstrip("\n"),
        "\ufeff" + jsonl(*RECORDS),
        "\n \n" + jsonl(*RECORDS).replace("\n", "\r\n\r\n"),
        CSV,
        CSV.rstrip("\n"),
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n\r\n"),
        CSV.replace("key,url,path", "Key, URL ,\"path\""),
    ],
    ids=["jsonl", "no_end", "bom", "blank_lines", "csv", "csv_no_end", "csv_bom", "csv_blank_lines", "csv_header"],
)  # fmt: skip
def test_what_a_manifest_says(opened: Open, data: str) -> None:
    assert [summary(entry) for entry in entries_of(opened(data))] == MEANT


@pytest.mark.parametrize("data", [jsonl(*RECORDS), CSV])
def test_only_keys_that_begin_with_the_prefix(opened: Open, data: str) -> None:
    """And lines that cannot be used: no job could tell that they are another's."""
    data += '{"key": "b"}\n' if data != CSV else "b,,,\n"
    entries = list(entries_of(opened(data, prefix="b")))
    assert [summary(entry)[:2] for entry in entries] == [("b", None), ("bü/c", None), ("b", "decode_error")]
    assert [entry.key for entry in entries_of(opened(data, prefix="deep/"))] == ["deep/c.png", "b"]
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(opened(data, prefix="b"), json.loads(json.dumps(entry.cursor)))) == entries[at:]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters(opened: Open, delimiter: str) -> None:
    data = f"key{delimiter}url\nb{delimiter}https://example.org/b,c.png\n"
    (entry,) = entries_of(opened(data))
    assert (entry.key, entry.ref) == ("b", {"u": "https://example.org/b,c.png"})


def test_further_columns_are_metadata(opened: Open) -> None:
    data = 'url,photographer,metadata,year\nhttp://a.org/1,"Doe, J.","{""year"": 2000}",1999\nhttp://a.org/2,,,1999\n'
    assert [entry.metadata for entry in entries_of(opened(data))] == [
        {"photographer": "Doe, J.", "year": 2000},
        {"year": "1999"},
    ]


BAD_JSON = {
    "no json": "not JSON",
    '{"url": "http://a.org/1"': "not JSON",
    '["http://a.org/1"]': "not a JSON object",
    '"http://a.org/1"': "not a JSON object",
    "17": "not a JSON object",
    "{}": "either a `url` or a `path`",
    '{"key": "a"}': "either a `url` or a `path`",
    '{"url": "http://a.org/1", "path": "a"}': "either a `url` or a `path`",
    '{"url": 17}': "`url` is not text",
    '{"url": ""}': "`url` is not text",
    '{"url": "http://a.org/1", "key": 17}': "`key` is not text",
    '{"path": ["a"]}': "`path` is not text",
    '{"url": "http://a.org/1", "metadata": 17}': "`metadata` is not a JSON object",
    '{"url": "http://a.org/1", "metadata": "{}"}': "`metadata` is not a JSON object",
    '{"url": "http://a.org/1", "kye": "a"}': "unknown field 'kye'",
    '{"url": "http://a.org/1", "metadata": {"a": NaN}}': "NaN",
    '{"url": "http://a.org/1", "metadata": {"a": 1e999}}': "too large",
    '{"url": "http://a.org/1", "metadata": {"a": "\\u0000"}}': "NUL",
    '{"url": "http://a.org/1", "metadata": {"\\ud800": 1}}': "Unicode",
    '{"url": "http://a.org/1", "metadata": ' + "[" * 20_000 + "]" * 20_000 + "}": "deeply",
    '{"url": "http://a.org/1", "metadata": ' + '{"a":' * 2_000 + "1" + "}" * 2_001: "deeply",
    '{"url": "http://a.org/' + "a" * MAX_LINE_BYTES + '"}': "65,536 bytes",
}


@pytest.mark.parametrize("line", BAD_JSON, ids=range(len(BAD_JSON)))
def test_a_bad_line_fails_alone(opened: Open, line: str) -> None:
    data = f'{{"url": "http://a.org/before"}}\n{line}\n{{"url": "http://a.org/after"}}\n'
    before, bad, after = entries_of(opened(data))
    assert (before.error, after.error) == (None, None)
    assert bad.error is not None
    assert bad.error.code == "decode_error"
    assert bad.error.detail.startswith("Line 2 of the manifest")
    assert BAD_JSON[line] in bad.error.detail


def test_lines_that_are_not_utf8(opened: Open) -> None:
    for start, row in ((b"", b'{"url": "http://a.org/%s"}\n'), (b"url\n", b"http://a.org/%s\n")):
        data = start + row % b"1" + row % b"\xe9\x81" + row % b"2"
        one, bad, two = entries_of(opened(data))
        assert (one.error, two.error, bad.error and "UTF-8" in bad.error.detail) == (None, None, True)


@pytest.mark.parametrize(
    "record",
    [
        {"url": "http://example.org/a", "key": "../a"},
        {"url": "http://example.org/a", "key": "a\nb"},
        {"path": "../secret.png"},
        {"path": "a.png", "key": "a" * 2000},
    ],
)
def test_keys_that_cannot_be(opened: Open, record: dict) -> None:
    (entry,) = entries_of(opened(jsonl(record)))
    assert entry.error is not None
    assert entry.error.code == "fetch_refused"


@pytest.mark.parametrize("url", ["ftp://example.org/a", "http://u:p@example.org/a", "http://127.0.0.1/", "no address"])
def test_addresses_that_are_refused(opened: Open, url: str) -> None:
    source = opened(jsonl({"url": url}))
    (entry,) = entries_of(source)
    with pytest.raises(errors.FetchRefused):
        source.read(entry.ref)


def test_an_address_is_its_key(opened: Open) -> None:
    addresses = ["https://example.org/a?b=c&d", "https://example.org//a/../b/", "https://example.org/" + "a" * 2000]
    shown = [entry.key for entry in entries_of(opened(jsonl(*({"url": url} for url in addresses))))]
    assert shown[:2] == [addresses[0], "https://example.org/a/b"]
    assert len(shown[2].encode()) <= 1024


def test_an_address_given_as_the_key_is_the_same_key(opened: Open) -> None:
    address = "https://example.org/a.jpg"
    records = ({"url": address}, {"url": address, "key": address}, {"path": "a.png", "key": address})
    assert {entry.key for entry in entries_of(opened(jsonl(*records)))} == {address}


BAD_CSV = {
    "a,b,c": "3 fields",
    "a": "either a `url` or a `path`",
    'x,"http://a.org/"b': "not CSV",
    'x,"http://a.org/b': "not CSV",
    'x,http://a.org/b,"{""a"": }"': "fields",
    ",,,x": "4 fields",
}


@pytest.mark.parametrize("line", BAD_CSV)
def test_a_bad_row_fails_alone(opened: Open, line: str) -> None:
    data = f"key,url\nk1,http://a.org/1\n{line}\nk2,http://a.org/2\nk3,http://a.org/3\n"
    before, bad, *after = entries_of(opened(data))
    assert [entry.key for entry in (before, *after)] == ["k1", "k2", "k3"]
    assert bad.error is not None
    assert bad.error.detail.startswith("Line 3 of the manifest")
    assert BAD_CSV[line] in bad.error.detail


def test_bad_metadata_in_a_row(opened: Open) -> None:
    (entry,) = entries_of(opened('url,metadata\nhttp://a.org/1,"{""a"": }"\n'))
    assert entry.error is not None
    assert "metadata cannot be used" in entry.error.detail


def test_a_quote_that_never_ends_costs_its_line_only(opened: Open) -> None:
    rows = [f"k{n},http://a.org/{n}" for n in range(5000)]
    rows[10] = 'k10,"http://a.org/10'
    entries = list(entries_of(opened("\n".join(["key,url", *rows]))))
    assert len(entries) == 5000
    assert [at for at, entry in enumerate(entries) if entry.error] == [10]
    assert entries[11].key == "k11"


def test_quoted_fields_span_lines(opened: Open) -> None:
    one, two = entries_of(opened('url,note\nhttp://a.org/1,"two\nlines, ""quoted"""\nbad,of,three\n'))
    assert one.metadata == {"note": 'two\nlines, "quoted"'}
    assert two.error is not None
    assert two.error.detail.startswith("Line 4")


@pytest.mark.parametrize(
    "data",
    [
        b"", b" \n \n", b"\xef\xbb\xbf", b'[{"url": "http://a.org/1"}]', b"name,age\nx,1\n", b"url,url\nx,y\n",
        gzip.compress(b'{"url": "http://a.org/1"}\n', mtime=0), b"PK\x03\x04 and so on", b"\x89PNG\r\n\x1a\n0000",
        '[{"url": "http://a.org/1"}]'.encode("utf-16"), "url\0".encode("utf-16"), b'"url', b"\xff\xfe", b"x" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_manifest(opened: Open, data: bytes) -> None:
    with pytest.raises(errors.SourceUnreadable):
        list(entries_of(opened(data)))


def test_too_many_entries(opened: Open) -> None:
    data = jsonl(*RECORDS)
    assert len(list(entries_of(opened(data, max_archive_members=4)))) == 4
    source = opened(data, max_archive_members=3)
    with pytest.raises(errors.SourceUnreadable, match="more than 3"):
        list(entries_of(source))
    cursor = next(itertools.islice(entries_of(source), 1, 2)).cursor
    with pytest.raises(errors.SourceUnreadable, match="more than 3"):
        list(entries_of(source, cursor))


HOSTILE = [
    jsonl(*RECORDS) + "\n\nbad\n" + "x" * (MAX_LINE_BYTES + 1) + "\r\n" + jsonl(*RECORDS),
    CSV + '\n\n"open\n' + CSV.partition("\n")[2] + 'a,"b"c,d,e\nk,,"pa\nth",\n' + "y" * (MAX_LINE_BYTES + 1) + "\n,",
]


@pytest.mark.parametrize("data", HOSTILE, ids=["jsonl", "csv"])
def test_planning_goes_on_from_every_cursor(opened: Open, data: str) -> None:
    source = opened(data)
    entries = list(entries_of(source))
    assert len(entries) > 8
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(source, json.loads(json.dumps(entry.cursor)))) == entries[at:]


@given(
    rows=st.lists(st.text(st.sampled_from('ab",;\n\r {}é\ufeff'), max_size=12), max_size=8),
    start=st.sampled_from(["url,key\n", "{}\n"]),
)
@tries(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_to_its_end(opened: Open, rows: list[str], start: str) -> None:
    source = opened(start + "\n".join(rows))
    entries = list(entries_of(source))
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(source, entry.cursor)) == entries[at:]


@pytest.mark.parametrize(("header", "row"), [("", '{"url": "http://a.org/%d"}'), ("url\n", "http://a.org/%d")])
def test_planning_takes_bounded_memory(opened: Open, header: str, row: str) -> None:
    source = opened(header + "".join(f"{row % n}\n" for n in range(PLANNED_LINES)))
    count, most, start = 0, 0, sys.getallocatedblocks()
    for count, _ in enumerate(entries_of(source), 1):
        if count % 1000 == 0:
            most = max(most, sys.getallocatedblocks() - start)
    assert count == PLANNED_LINES
    # objects, whatever their size: a window has some thousands of lines
    assert most < PLANNED_LINES / 10
    tracemalloc.start()
    assert sum(1 for _ in itertools.islice(entries_of(source), PLANNED_LINES // 10)) == PLANNED_LINES // 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES_PLANNING


def test_a_line_without_end_takes_bounded_memory(opened: Open) -> None:
    source = opened('{"url": "' + "x" * (32 << 20) + '"}\n{"url": "http://a.org/1"}\n')
    tracemalloc.start()
    bad, good = entries_of(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bad.error is not None
    assert good.error is None
    assert peak < MOST_BYTES_PLANNING


def test_a_file_that_is_one_long_line_is_not_a_list(opened: Open) -> None:
    source = opened('{"url": "http://a.org/1"}\n{"url": "' + "x" * (66 << 20))
    with pytest.raises(errors.SourceUnreadable, match="64 MiB"):
        list(entries_of(source))


def test_paths_are_read_below_the_roots_only(opened: Open, root: Path, tmp_path: Path) -> None:
    (root / "deep").mkdir()
    (root / "deep" / "c.png").write_bytes(b"picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    source = opened(jsonl({"path": "deep/c.png"}, {"path": str(root / "deep" / "c.png"), "key": "again"}))
    assert [source.read(entry.ref) for entry in entries_of(source)] == [b"picture", b"picture"]
    refused = [
        "../secret.png",
        str(tmp_path / "secret.png"),
        "link.png",
        "/etc/passwd",
        "deep",
        f"{root}/../secret.png",
    ]
    for path in refused:
        with pytest.raises(errors.FetchRefused):
            source.read({"p": path})
    with pytest.raises(errors.ItemNotFound):
        source.read({"p": "deep/gone.png"})


def test_an_absolute_path_is_keyed_below_its_root(opened: Open, root: Path) -> None:
    entries = entries_of(opened(jsonl({"path": f"{root}/deep/c.png"}, {"path": "/elsewhere/d.png"})))
    assert [entry.key for entry in entries] == ["deep/c.png", "elsewhere/d.png"]


@pytest.mark.parametrize("roots", [(), ("/one", "/two")])
def test_a_relative_path_needs_one_root(opened: Open, roots: tuple[str, ...]) -> None:
    source = opened(jsonl({"path": "c.png"}), source_roots=roots)
    (entry,) = entries_of(source)
    with pytest.raises(errors.FetchRefused, match="relative"):
        source.read(entry.ref)


def test_a_list_of_addresses_is_kept_as_a_manifest(opened: Open) -> None:
    items = [{"url": "http://a.org/ü"}, {"url": "http://a.org/2", "key": "k", "metadata": {"a": "\n"}}]
    sources.check_source({"type": "urls", "urls": items}, Settings())
    assert [summary(entry) for entry in entries_of(opened(urls.written(items), "urls"))] == [
        ("http://a.org/ü", None, None),
        ("k", None, {"a": "\n"}),
    ]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        (None, "/source/urls"),
        ([], "/source/urls"),
        ([{"url": "http://a.org/1"}] * 10_001, "/source/urls"),
        (["http://a.org/1"], "/source/urls/0/url"),
        ([{"url": "http://a.org/1"}, {"key": "a"}], "/source/urls/1/url"),
        ([{"url": "http://a.org/1", "key": "../a"}], "/source/urls/0/key"),
        ([{"url": "http://a.org/1", "metadata": {"a": "x" * MAX_LINE_BYTES}}], "/source/urls/0/metadata"),
    ],
)  # fmt: skip
def test_lists_that_are_refused(given: Any, pointer: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        sources.check_source({"type": "urls", "urls": given}, Settings())
    assert caught.value.errors[0]["pointer"] == pointer
