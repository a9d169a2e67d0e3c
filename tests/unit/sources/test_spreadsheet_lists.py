"""Lists as Excel and Windows write them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from imagekin import errors, sources
from imagekin.settings import Settings
from imagekin.sources import Source
from imagekin.uploads.files import Storage
from kit import effort
from kit.packing import PICTURE, entries_of

ROWS = [("path", "key", "price"), ("a.png", "A", "1"), ("b.png", "B", "2")]


def rows(separator: str, end: str = "\n", quote: str = "") -> str:
    return "".join(separator.join(f"{quote}{value}{quote}" for value in row) + end for row in ROWS)


def opened(data: bytes, folder: Path) -> Source:
    pictures = folder / "in"
    (pictures / "sub").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png", "sub/c.png", "café.png"):
        (pictures / name).write_bytes(PICTURE)
    where = Settings(data_dir=folder / "data", source_roots=(str(pictures),))
    Storage(where).write("u", [data], 1 << 30)
    return sources.open_source({"type": "manifest", "upload_id": "u", "path": "u"}, Storage(where), where)


LISTS = {
    "sep": ("sep=;\n" + rows(";")).encode(),
    "sep of its own": ("sep=|\r\n" + rows("|", "\r\n")).encode(),
    "sep in capitals, quoted, with a mark": b"\xef\xbb\xbf" + ('"SEP=,"\r\n' + rows(",", "\r\n")).encode(),
    "sep is a tab": ("sep=\t\r\n" + rows("\t", "\r\n")).encode(),
    "sep filled up": ("sep=;;;\r\n" + rows(";", "\r\n")).encode(),
    "sep in UTF-16": ("sep=;\r\n" + rows(";", "\r\n")).encode("utf-16"),
    "PowerShell": ("#TYPE System.Management.Automation.PSCustomObject\r\n" + rows(",", "\r\n", '"')).encode("utf-16"),
    "CR": rows(";", "\r").encode(),
    "CR without an end": rows(",", "\r").rstrip("\r").encode(),
    "CR, sep": ("sep=;\r" + rows(";", "\r")).encode(),
    "UTF-16": rows("\t", "\r\n").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + rows("\t", "\r\n").encode("utf-16-be"),
    "UTF-16 without a mark": rows(",", "\r\n").encode("utf-16-le"),
    "UTF-16 without a mark, big end first": rows(",").encode("utf-16-be"),
    "UTF-16, CR": rows(";", "\r").encode("utf-16"),
    "quoted, with a mark": b"\xef\xbb\xbf" + rows(";", "\r\n", '"').encode(),
    "empty columns and rows": b"path;key;price;;\r\na.png;A;1;;\r\nb.png;B;2\r\n;;;;\r\n;;\r\n",
    "JSON lines in UTF-16": "".join(
        json.dumps({"path": path, "key": key, "metadata": {"price": price}}) + "\r\n" for path, key, price in ROWS[1:]
    ).encode("utf-16"),
    "JSON lines with CR and commas": ",\r".join(
        json.dumps({"path": path, "key": key, "metadata": {"price": price}}) for path, key, price in ROWS[1:]
    ).encode(),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_read_however_it_is_written(tmp_path: Path, name: str) -> None:
    source = opened(LISTS[name], tmp_path)
    entries = list(entries_of(source))
    assert [(entry.key, entry.metadata, entry.error) for entry in entries] == [
        ("A", {"price": "1"}, None),
        ("B", {"price": "2"}, None),
    ]
    assert [source.read(entry.ref) for entry in entries] == [PICTURE] * 2
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(source, json.loads(json.dumps(entry.cursor)))) == entries[at:]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("sub\\c.png", "sub/c.png"),
        (".\\sub\\c.png", "sub/c.png"),
        ("sub/c.png", "sub/c.png"),
        ("./sub\\c.png", "sub/c.png"),
    ],
)
def test_paths_of_windows(tmp_path: Path, path: str, key: str) -> None:
    for data in (json.dumps({"path": path}), f"path,key\n{path},\n"):
        source = opened(data.encode(), tmp_path)
        (entry,) = entries_of(source)
        assert (entry.key, entry.error) == (key, None)
        assert source.read(entry.ref) == PICTURE


def test_a_backslash_in_a_name_is_that_first(tmp_path: Path) -> None:
    source = opened(json.dumps({"path": "sub\\c.png"}).encode(), tmp_path)
    (tmp_path / "in" / "sub\\c.png").write_bytes(PICTURE + b"2")
    (entry,) = entries_of(source)
    assert source.read(entry.ref) == PICTURE + b"2"


@pytest.mark.parametrize(
    "path", ["C:\\Users\\me\\a.png", "..\\..\\etc\\passwd", "\\\\server\\share\\a.png", "sub\\d.png"]
)
def test_paths_of_windows_lead_to_nothing_else(tmp_path: Path, path: str) -> None:
    source = opened(json.dumps({"path": path}).encode(), tmp_path)
    (entry,) = entries_of(source)
    if entry.error is None:
        with pytest.raises((errors.ItemNotFound, errors.FetchRefused)):
            source.read(entry.ref)


def test_plain_csv_of_excel_is_cp1252(tmp_path: Path) -> None:
    source = opened("path;key\r\ncafé.png;Größe\r\n".encode("cp1252"), tmp_path)
    (entry,) = entries_of(source)
    assert (entry.key, entry.error) == ("Größe", None)
    assert source.read(entry.ref) == PICTURE


def test_a_long_line_in_utf16_fails_alone(tmp_path: Path) -> None:
    text = "path,key\r\n" + "x" * 100_000 + ",B\r\na.png,A\r\n"
    long, good = entries_of(opened(text.encode("utf-16"), tmp_path))
    assert long.error is not None
    assert (good.key, good.error) == ("A", None)


def test_a_character_that_looks_like_a_line_break_is_none(tmp_path: Path) -> None:
    text = "path,key\na.png,\u0a0a\u0a00\nb.png,\u000aB\n".replace("\u000aB", "B")
    entries = list(entries_of(opened(text.encode("utf-16"), tmp_path)))
    assert [entry.key for entry in entries] == ["\u0a0a\u0a00", "B"]


@pytest.mark.parametrize("line", ['"a', 'a,"b', '"""', '"a"b"'])
def test_quotes_that_never_end_cost_no_square_of_the_list(tmp_path: Path, line: str) -> None:
    data = ("path,key\n" + f"{line}\n" * (100_000 // (len(line) + 1))).encode()
    with effort.at_most(cpu_s=10), contextlib.closing(opened(data, tmp_path)) as source:
        found = list(entries_of(source))
    assert all(entry.error is not None for entry in found)
    assert len(found) > 10_000


def test_a_few_quotes_that_never_end_take_no_line_with_them(tmp_path: Path) -> None:
    data = 'path,key\n"a\n"a b\nc.png,"c\nd"\n"\ne.png,e\n'
    with contextlib.closing(opened(data.encode(), tmp_path)) as source:
        assert [entry.key for entry in entries_of(source) if entry.error is None] == ["e"]
