"""Hostile lists and containers that take long, against the running service: each has its answer, no worker dies."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from imagekin import Client, errors
from imagekin.enums import ItemStatus
from kit import picture_files as files
from kit.packing import RawZip, member, tarred

PNG = files.encoded(files.scene(), "PNG")
MEGABYTE = 1 << 20
# Nothing is there, and nobody is asked.
INSIDE = "http://10.0.0.1/a.png"

REFUSED, UNREADABLE, EMPTY = {"fetch_refused"}, {"source_unreadable"}, {"empty_source"}
BAD = {"decode_error"}


def jsonl(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def named(field: str, *values: str) -> bytes:
    return jsonl(*({field: value} for value in values))


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=tarfile.LNKTYPE, linkname=target)


def lists() -> dict[str, tuple[bytes, set[str]]]:
    """Return lists by name, with the codes of the items or of the job that each ends with."""
    line = jsonl({"url": INSIDE})
    keys = ("../a", "a/../b", "k" * 2000, "\u0301" * 1000)
    return {
        "empty.csv": (b"", {"invalid_request"}),
        "mark-only.csv": (b"\xef\xbb\xbf", UNREADABLE),
        "spaces.csv": (b" \n\t\n", UNREADABLE),
        "blank-lines.jsonl": (line + b"\n" * MEGABYTE + line, REFUSED | {"duplicate_key"}),
        "blank-rows.csv": (b"url,key\n" + b",\n" * (MEGABYTE // 2) + INSIDE.encode() + b",a\n", REFUSED),
        "quotes.csv": (b"url,key\n" + b'"a\n' * 2_000, BAD),
        "quotes-in-fields.csv": (b'url,key\na"b"c,"d"e"f\n', BAD),
        "long-line.jsonl": (b'{"url": "' + b"x" * 2 * MEGABYTE + b'"}\n' + line, BAD | REFUSED),
        "no-end.jsonl": (b'{"url": "' + b"x" * 2 * MEGABYTE, BAD),
        "nul.jsonl": (line + b'{"url": "http://a\\u0000b/"}\n', BAD | REFUSED),
        "raw-nul.csv": (b"url\nhttp://a/\0\n", UNREADABLE),
        "not-text.csv": (bytes(range(256)) * 8, UNREADABLE),
        "picture.csv": (PNG, UNREADABLE),
        "gzip.csv": (gzip.compress(line, mtime=0), UNREADABLE),
        "zip.jsonl": (zipped({"a.jsonl": line}), UNREADABLE),
        "list.jsonl": (b"[" + line.strip() + b"]", UNREADABLE),
        "no-header.csv": (b"http://a.org/1\nhttp://a.org/2\n", UNREADABLE),
        "header-twice.csv": (b"url,url\na,b\n", UNREADABLE),
        "header-only.csv": (b"url,key\n", EMPTY),
        "columns.csv": (b"url" + b"".join(b",c%d" % n for n in range(5000)) + b"\n" + INSIDE.encode() + b"\n", REFUSED),
        "short-rows.csv": (b"key,url\nonly a key\n", BAD),
        "long-rows.csv": (b"url\na,b,c,d\n", BAD),
        "not-utf8.jsonl": (b'{"url": "http://a/\xff"}\n', BAD),
        "half-utf16.csv": (("url\n" + INSIDE + "\n").encode("utf-16") + b"x", REFUSED | BAD),
        "deep.jsonl": (b'{"metadata": ' + b"[" * 20_000 + b"]" * 20_000 + b"}\n", BAD),
        "nan.jsonl": (b'{"url": "http://a/", "metadata": {"a": NaN}}\n', BAD),
        "huge-number.jsonl": (b'{"url": "http://a/", "metadata": {"a": 1' + b"0" * 5000 + b"}}\n", BAD),
        "surrogate.jsonl": (b'{"url": "http://a/\\ud800"}\n', BAD),
        "unknown-field.jsonl": (jsonl({"uri": INSIDE}), BAD),
        "both.jsonl": (jsonl({"url": INSIDE, "path": "a.png"}), BAD),
        "numbers.jsonl": (jsonl({"url": 5}, {"key": [1], "url": INSIDE}), BAD),
        "metadata-text.jsonl": (jsonl({"url": INSIDE, "metadata": "x"}), BAD),
        "formula.csv": (b"url,note\n" + INSIDE.encode() + b",=cmd|'/c calc'!A1\n", REFUSED),
        "passwd.jsonl": (named("path", "/etc/passwd", "../../../etc/passwd", "..\\..\\passwd"), REFUSED),
        "file.jsonl": (named("url", "file:///etc/passwd", "gopher://a/", "javascript:1"), REFUSED),
        "inside.jsonl": (named("url", "http://127.1.1.1:1/", "http://[::1]:1/", "http://169.254.169.254/"), REFUSED),
        "user.jsonl": (jsonl({"url": "http://user:secret@10.0.0.1/"}), REFUSED),
        "keys.jsonl": (jsonl(*({"url": INSIDE, "key": key} for key in keys)), REFUSED | {"invalid_key"}),
        "same-key.jsonl": (jsonl(*[{"url": INSIDE, "key": "k"}] * 50), {"fetch_refused", "duplicate_key"}),
    }  # fmt: skip


def containers() -> dict[str, tuple[bytes, set[str]]]:
    """Return containers in which nothing is found for long, or that become far larger, by name, as `lists` does."""
    folders = [member(f"{n}", b"", type=tarfile.DIRTYPE) for n in range(20_000)]
    many = [member(f"{n}.png", b"") for n in range(1_000)]
    archive = RawZip()
    for n in range(20_000):
        archive.add(f"{n}/", b"")
    archive.add("a.png", PNG)
    return {
        "folders.tar": (tarred(*folders, member("a.png", PNG)), set()),
        "folders-only.tar": (tarred(*folders), EMPTY),
        "folders.zip": (archive.bytes(), set()),
        "texts.tar": (tarred(*(member(f"{n}.txt", b"x") for n in range(1_000))), EMPTY),
        "late-link.tar": (tarred(member("a.png", PNG), *many, link("z.png", "a.png")), {"empty_file"}),
        "links.tar": (tarred(member("a.png", PNG), *(link(f"{n}", "b") for n in range(1_000))), set()),
        "deep.tar": (tarred(member("d/" * 400 + "a.png", PNG)), set()),
        "air.tar.gz": (gzip.compress(tarred(member("a.png", bytes(80 * MEGABYTE))), 9, mtime=0), {"too_large"}),
        "air.zip": (zipped({"a.png": bytes(80 * MEGABYTE)}), {"decompression_bomb", "too_large"}),
    }  # fmt: skip


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def ended(client: Client, path: Path) -> set[str]:
    """Return the codes that a source ended with: of its refusal, of its job, or of the job's items."""
    try:
        job = client.embed(path, collection="hostile-lists", backbone="fake", upload=True).wait(timeout_s=60)
    except errors.ImagekinError as error:
        assert 400 <= error.http_status < 500, (path.name, error)
        return {error.code}
    if job.error is not None and job.error.code not in ("internal_error",):
        return {job.error.code}
    items: Sequence = list(job.items(ItemStatus.FAILED))
    return {item.error.code for item in items if item.error}


def test_hostile_lists_and_containers(client: Client, unharmed: None, tmp_path: Path) -> None:
    wrong = {}
    for name, (data, expected) in (lists() | containers()).items():
        (tmp_path / name).write_bytes(data)
        found = ended(client, tmp_path / name)
        if not (found <= expected and bool(found) == bool(expected)):
            wrong[name] = found
    assert wrong == {}
