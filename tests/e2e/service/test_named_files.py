"""Files that a client names, in every form of a name: each is an item of its job, and none is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from imagekin import Client
from imagekin.enums import ItemStatus
from imagekin.stack import Stack
from kit import picture_files as files

COMMAND = [sys.executable, "-c", "from imagekin.cli import main; main()"]
PNG = files.encoded(files.scene(), "PNG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
BOUNDARY = b"of-the-form"

# What follows `name="images"` in a part's Content-Disposition, and the key that it stands for.
FORMS = {
    'filename="café.png"'.encode(): "café.png",
    b'filename="caf\xe9-latin1.png"': "café-latin1.png",
    'filename="表.png"'.encode("cp932"): "%95%5C.png",
    b"filename*=UTF-8''na%C3%AFve.png": "naïve.png",
    b"filename=\"na_ve.png\"; filename*=UTF-8''na%C3%AFve-2.png": "naïve-2.png",
    rb'filename="C:\Users\me\b.png"': "C:/Users/me/b.png",
    rb'filename="sub\\c.png"': "sub/c.png",
    b'filename="a\\"b.png"': 'a"b.png',
    b'filename="c%22d.png"': 'c"d.png',
    b"filename=plain.png": "plain.png",
    b'filename="dir/x.png"': "dir/x.png",
    b'filename=".hidden.png"': ".hidden.png",
    b'filename="__MACOSX/y.png"': "__MACOSX/y.png",
    b'filename="@eaDir/z.png"': "@eaDir/z.png",
    b'filename="no suffix"': "no suffix",
}
NO_NAMES = {b'filename=""': "''", b"x=y": "''", b'filename="../../x.png"': "'..'", b'filename="."': "'.'"}


@pytest.fixture
def name(client: Client, request: pytest.FixtureRequest) -> str:
    name = request.node.name.replace("_", "-")[:100]
    client.create_collection(name, backbone="fake")
    return name


def part(disposition: bytes, data: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="images"; ' + disposition
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\nContent-Type: image/png\r\n\r\n" + data + b"\r\n"


def post(service: Stack, collection: str, *parts: bytes) -> httpx2.Response:
    field = b'--%b\r\nContent-Disposition: form-data; name="collection"\r\n\r\n%b\r\n' % (BOUNDARY, collection.encode())
    body = field + b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    return httpx2.post(f"{service.url}/v1/jobs/embed", content=body, headers=headers, trust_env=False)


def items(client: Client, answer: httpx2.Response) -> list[tuple[str, str | None]]:
    """What became of the files of a job that was accepted, of which nothing may be ignored."""
    assert answer.status_code == 202, answer.text
    job = client.job(answer.json()["id"]).wait()
    assert job.progress.ignored == 0
    return [(item.key, item.error and item.error.code) for item in job.items()]


def test_every_form_of_a_file_name(service: Stack, client: Client, name: str) -> None:
    answer = post(service, name, *(part(form, PNG) for form in FORMS))
    assert items(client, answer) == [(key, None) for key in FORMS.values()]
    assert {image.key for image in client.images(name)} == set(FORMS.values())


def test_what_is_no_name_is_told(service: Stack, client: Client, name: str) -> None:
    for form, shown in NO_NAMES.items():
        problem: dict[str, Any] = post(service, name, part(b"filename=a.png", PNG), part(form, PNG)).json()
        assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/images/1")
        assert f"has the part {shown}" in problem["detail"]
    assert client.collection(name).image_count == 0


NAMED = {
    "a.png": (PNG, None),
    # beside a picture that was named, too: only an archive has sidecars
    "a.json": (b'{"year": 1999}', "unsupported_format"),
    "a.txt": (b"a caption", "unsupported_format"),
    ".hidden.png": (PNG, None),
    "b.heic": (HEIC, "decode_error|unsupported_format"),
    "c.jxl": (b"\xff\x0a" + bytes(300), "decode_error|unsupported_format"),
    "d.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(300), "unsupported_format"),
    "e.nef": (b"not even that", "unsupported_format"),
    "f.pdf": (b"%PDF-1.7", "unsupported_format"),
    "g.tar": (b"", "empty_file"),
    "h": (b"", "empty_file"),
}


def expected(found: list[tuple[str, str | None]]) -> bool:
    codes = dict(found)
    return codes.keys() == NAMED.keys() and all(
        codes[key] == code if code is None else codes[key] in code.split("|") for key, (_, code) in NAMED.items()
    )


def test_what_is_sent_by_a_form_is_an_item(service: Stack, client: Client, name: str) -> None:
    parts = [part(b'filename="%b"' % key.encode(), data) for key, (data, _) in NAMED.items()]
    found = items(client, post(service, name, *parts))
    assert expected(found), found
    assert {image.key: image.metadata for image in client.images(name)} == {"a.png": {}, ".hidden.png": {}}


def test_what_is_named_to_a_command_is_an_item(service: Stack, client: Client, name: str, tmp_path: Path) -> None:
    named = {key: each for key, each in NAMED.items() if key != "g.tar"}
    for key, (data, _) in named.items():
        (tmp_path / key).write_bytes(data)
    command = [*COMMAND, "--url", service.url, "embed", *(str(tmp_path / key) for key in named), "-c", name, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    (job,) = client.jobs(collection=name)
    found = [(item.key, item.error and item.error.code) for item in job.items()]
    assert expected([*found, ("g.tar", "empty_file")]), found
    assert job.progress.ignored == 0


def test_a_command_excludes_by_name(service: Stack, client: Client, name: str, readable: Path) -> None:
    for key in ("a.png", "a.draft.png", "old/b.png", "sub/old/c.png", "sub/d.png", "@eaDir/e.png"):
        path = readable / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)
    excluded = ["--exclude", "*.draft.png", "--exclude", "sub/old"]
    for more in (["--upload"], []):
        command = [*COMMAND, "--url", service.url, "embed", str(readable), "-c", name, *more, *excluded]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    kept = {"a.png", "old/b.png", "sub/d.png"}
    sent, read_in_place = sorted(client.jobs(collection=name), key=lambda job: job.created_at)
    assert {item.key for item in sent.items()} == kept
    source = {"type": "folder", "path": str(readable), "exclude": ["*.draft.png", "sub/old"]}
    assert read_in_place.params["source"] == source
    body = {"collection": name, "source": source}
    posted = httpx2.post(f"{service.url}/v1/jobs/embed", json=body, trust_env=False).json()
    for job in (read_in_place, client.job(posted["id"]).wait()):
        assert {item.key for item in job.items()} == kept
        left_out = {item.key: item.error and item.error.detail for item in job.items(ItemStatus.IGNORED)}
        assert set(left_out) == {"a.draft.png", "sub/old", "@eaDir"}
        assert all("left out" in str(reason) for reason in left_out.values())
