"""Hostile pictures and archives against the running service: each has its answer, and no worker dies of any."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagekin import Client, errors
from imagekin.enums import ItemStatus, JobStatus
from kit import picture_files as files

MEGABYTE = 1 << 20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


def encoded(format: str, size: tuple[int, int] = (64, 48)) -> bytes:
    pixels = np.random.default_rng(len(format)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Write a PNG whose header says a size that its data need not have."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pictures() -> dict[str, tuple[bytes, set[str]]]:
    """Return hostile pictures by name, with the error codes that each may end with."""
    broken, refused = {"decode_error"}, {"unsupported_format"}
    found: dict[str, tuple[bytes, set[str]]] = {"empty.jpg": (b"", {"empty_file"})}
    for format in FORMATS:
        whole = encoded(format)
        suffix = format.lower()
        for share in (0.1, 0.4):
            found[f"cut-{share}.{suffix}"] = (whole[: int(len(whole) * share)], broken | refused)
        found[f"head-only.{suffix}"] = (whole[:40], broken | refused)
        zeroed = whole[:40] + bytes(len(whole) - 40)
        found[f"zeroed.{suffix}"] = (zeroed, broken | refused | {"decompression_bomb", ""})
    found |= {
        "bomb-wide.png": (png(60_000, 60_000), {"decompression_bomb"}),
        "bomb-long.png": (png(1, 2_000_000_000), {"decompression_bomb", "decode_error"}),
        "bomb-zero.png": (png(0, 0), broken),
        "bomb-true.png": (png(30_000, 30_000, bytes(20 * MEGABYTE)), {"decompression_bomb"}),
        "little-data.png": (png(500, 500, b"few"), broken),
        "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) show\n%%EOF", refused),
        "postscript.png": (b"%!PS\n(/etc/passwd) (r) file 100 string readstring pop =\n", refused),
        "svg.png": (
            b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
            refused,
        ),
        "html.jpg": (b"<html><script>alert(1)</script></html>", refused),
        "pdf.jpg": (b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF", refused),
        "elf.png": (b"\x7fELF\x02\x01\x01" + bytes(64), refused),
        "zip.jpg": (zipped({"x.png": b"x"}), refused),
        "gzip.jpg": (gzip.compress(encoded("PNG"), mtime=0), refused),
        "python.png": (b"import os; os.system('true')\n", refused),
        "pickle.jpg": (b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", refused),
        "noise.jpg": (np.random.default_rng(1).bytes(5000), refused),
        "noise-behind-jpeg.jpg": (b"\xff\xd8\xff\xe0" + np.random.default_rng(2).bytes(5000), broken),
        "noise-behind-png.png": (b"\x89PNG\r\n\x1a\n" + np.random.default_rng(3).bytes(5000), broken),
        "noise-behind-webp.webp": (
            b"RIFF\x00\x10\x00\x00WEBP" + np.random.default_rng(4).bytes(5000),
            broken | refused,
        ),
        "noise-behind-gif.gif": (b"GIF89a" + np.random.default_rng(5).bytes(5000), broken | {"decompression_bomb", ""}),
        "noise-behind-tiff.tif": (b"II*\x00" + np.random.default_rng(6).bytes(5000), broken),
        "noise-behind-bmp.bmp": (
            b"BM" + np.random.default_rng(7).bytes(5000),
            broken | refused | {"decompression_bomb"},
        ),
        "tiff-points-to-itself.tif": (
            b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" + bytes(12) + b"\x08\x00\x00\x00",
            broken,
        ),
        "psd.jpg": (b"8BPS\x00\x01" + bytes(40), refused),
        "ico.png": (b"\x00\x00\x01\x00\x01\x00" + bytes(40), refused),
        "text.jpg": ("not a picture, ünïcode".encode(), refused),
        "nul.png": (bytes(1000), refused),
    }
    found |= odd_pictures()
    # wrong suffixes on good pictures are fine: what counts is the content
    found["jpeg-named.png"] = (encoded("JPEG"), {""})
    found["png-named.jpg"] = (encoded("PNG"), {""})
    return found


def odd_pictures() -> dict[str, tuple[bytes, set[str]]]:
    """Return pictures that programs in the field write, whole or not, and such as are none that is read."""
    whole, refused, broken = {""}, {"unsupported_format"}, {"decode_error"}
    colors = np.asarray(files.scene())
    plain, jpeg = files.encoded(files.scene(), "PNG"), files.encoded(files.scene(), "JPEG")
    deep, floats = colors.astype("<u2") * 257, (colors / 255).astype("<f4")
    clear = np.concatenate([colors, np.zeros((*colors.shape[:2], 1), np.uint8)], 2)
    preview = files.plain(colors, 8, 2) | {254: (files.LONG, 1)}
    profiled = files.encoded(files.scene(), "PNG", icc_profile=bytes(300))
    behind = functools.partial(files.behind_header, plain)
    return {
        "empty-alpha.bmp": (files.bmp_v4(clear), whole),
        "marked.bmp": (encoded("BMP")[:6] + b"LEAD" + encoded("BMP")[10:], whole),
        "long-text.png": (behind(files.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 * MEGABYTE)))), whole),
        "long-profile.png": (behind(files.chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(90 * MEGABYTE)))), whole),
        "broken-profile.png": (profiled, whole),
        "text-checksum.png": (behind(files.chunk(b"tEXt", b"a\0b", 1)), whole),
        "odd-chunk.png": (behind(files.chunk(b"s\x01IT", b"?")), whole),
        "many-chunks.png": (behind(*[files.chunk(b"tEXt", b"a\0b")] * 50_000), whole),
        "no-end.png": (plain[:-12], whole),
        "no-data.png": (plain[:33] + plain[-12:], broken),
        "apples.png": (plain[:8] + files.chunk(b"CgBI", bytes(4)) + plain[8:], refused),
        "no-end.jpg": (jpeg[:-2], whole),
        "half.jpg": (jpeg[: len(jpeg) // 2], broken),
        "planes.tif": (files.tiff(files.plain(deep, 16, 2, planar=2)), whole),
        "floats.tif": (files.tiff(files.plain(floats, 32, 2, 3)), whole),
        "white-is-zero.tif": (files.tiff(files.plain(deep[..., 0].copy(), 16, 0)), whole),
        "doubles.tif": (files.tiff(files.plain(colors / 255, 64, 2, 3)), refused),
        "raw.nef": (files.tiff(preview, files.plain(deep[..., 0].copy(), 16, 32803)), refused),
        "raw.dng": (files.tiff(preview | {50706: (files.BYTE, b"\1\4\0\0")}), refused),
        "raw.cr2": (b"II*\0\x10\0\0\0CR\2\0" + bytes(200), refused),
        "raw.raf": (b"FUJIFILMCCD-RAW " + bytes(200), refused),
        "cut.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), refused | broken),
        "cut.jxl": (b"\xff\x0a" + bytes(300), refused | broken),
        "jpeg2000.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(300), refused),
        "photoshop.psd": (b"8BPS\0\1" + bytes(200), refused),
        "drawing.svg": (b"<!-- " + b"x" * 300 + b" --><svg xmlns='http://www.w3.org/2000/svg'/>", refused),
        "exr": (b"\x76\x2f\x31\x01" + bytes(200), refused),
    }


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def archives() -> dict[str, bytes]:
    """Return hostile archives by name."""
    image = encoded("PNG")
    good = zipped({"a.png": image, "b.png": image})
    symlink = zipfile.ZipInfo("link.png")
    symlink.external_attr = 0o120777 << 16
    linked = io.BytesIO()
    with zipfile.ZipFile(linked, "w") as archive:
        archive.writestr(symlink, "/etc/passwd")
    return {
        "slip.zip": zipped({"../../etc/evil.png": image, "ok.png": image}),
        "absolute.zip": zipped({"/etc/evil.png": image}),
        "windows.zip": zipped({"C:\\evil.png": image, "..\\up.png": image}),
        "symlink.zip": linked.getvalue(),
        "bomb.zip": zipped({"bomb.png": bytes(150 * MEGABYTE)}),
        "nested.zip": zipped({"inner.zip": good, "deeper.tar": tarred((member("x.png"), image))}),
        "cut.zip": good[: len(good) // 2],
        "no-end.zip": good[:-22],
        "flipped.zip": bytes(byte ^ 0xFF if 45 < at < 90 else byte for at, byte in enumerate(good)),
        "only-end.zip": good[-22:],
        "empty.zip": zipped({}),
        "twice.zip": _twice(image),
        "names.zip": zipped({"x" * 5000 + ".png": image, "new\nline.png": image, "\u202egnp.exe": image}),
        "hidden.zip": zipped({".hidden.png": image, "__MACOSX/._a.png": b"x"}),
        "slip.tar": tarred((member("../up.png"), image), (member("/root.png"), image)),
        "links.tar": tarred(
            (member("s.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
            (member("h.png", tarfile.LNKTYPE, "/etc/passwd"), b""),
        ),
        "devices.tar": tarred((member("zero", tarfile.CHRTYPE), b""), (member("pipe", tarfile.FIFOTYPE), b"")),
        "cut.tar": tarred((member("a.png"), image), (member("b.png"), image))[:1200],
        "bomb.tar.gz": gzip.compress(tarred((member("bomb.png"), bytes(150 * MEGABYTE))), 1, mtime=0),
        "cut.tar.gz": gzip.compress(tarred((member("a.png"), image)), mtime=0)[:60],
        "not-a-tar.tar.gz": gzip.compress(b"just text", mtime=0),
        "noise.zip": b"PK\x03\x04" + np.random.default_rng(8).bytes(3000),
        "noise.tar": np.random.default_rng(9).bytes(5120),
    }


def odd_archives() -> dict[str, bytes]:
    """Return archives whose names, links and sidecars are as people have them, or worse."""
    image = encoded("PNG")
    path_of_another = b"\x75\x70" + struct.pack("<HBL", 14, 1, 7) + b"other.png"
    real_path = b"\x75\x70" + struct.pack("<HBL", 14, 1, zlib.crc32(b"__.png")) + b"again.png"
    up = b"\x75\x70" + struct.pack("<HBL", 14, 1, zlib.crc32(b"__.png")) + b"../up.png"
    return {
        "cp932.zip": _named("表.png".encode("cp932"), image),
        "cp932-folder.zip": _named("能/表.png".encode("cp932"), image),
        "big5.zip": _named("許功蓋.png".encode("big5"), image),
        "latin1.zip": _named(b"caf\xe9.png", image),
        "bytes.zip": _named(bytes(range(0x80, 0x100)) + b".png", image),
        "unicode-path.zip": _named(b"__.png", image, real_path),
        "unicode-path-of-another.zip": _named(b"__.png", image, path_of_another),
        "unicode-path-up.zip": _named(b"__.png", image, up),
        "unicode-path-cut.zip": _named(b"__.png", image, real_path[:7]),
        "sidecar.zip": zipped({"a.png": image, "a.json": b'{"n": NaN}', "a.txt": b"said"}),
        "sidecar-deep.zip": zipped({"a.png": image, "a.json": b"[" * 60_000}),
        "sidecar-bomb.zip": zipped({"a.png": image, "a.json": b'{"a":"' + b" " * (50 * MEGABYTE) + b'"}'}),
        "sidecar-nul.zip": zipped({"a.png": image, "a.txt": b"a\0b"}),
        "sidecars-of-one.zip": zipped({f"a.{n}.txt": b"x" for n in range(3000)} | {"a.png": image}),
        "system.zip": zipped({"@eaDir/a.png": image, "#recycle/b.png": image}),
        "links-in.tar": tarred((member("a.png"), image), (member("b.png", tarfile.LNKTYPE, "a.png"), b"")),
        "link-round.tar": tarred(
            (member("a.png", tarfile.LNKTYPE, "b.png"), b""), (member("b.png", tarfile.LNKTYPE, "a.png"), b"")
        ),
        "link-itself.tar": tarred((member("a.png", tarfile.LNKTYPE, "a.png"), b"")),
        "link-chain.tar": tarred(
            (member("0.png"), image), *((member(f"{n + 1}.png", tarfile.LNKTYPE, f"{n}.png"), b"") for n in range(30))
        ),
        "link-to-folder.tar": tarred((member("d", tarfile.DIRTYPE), b""), (member("d.png", tarfile.LNKTYPE, "d"), b"")),
        "cp932.tar": tarred((member("表.png".encode("cp932").decode("utf-8", "surrogateescape")), image)),
        "controls.tar": tarred((member("a\x1b[31m.png"), image)),
        "seven.7z": b"7z\xbc\xaf\x27\x1c" + bytes(4000),
        "rar.rar": b"Rar!\x1a\x07\x01\0" + bytes(4000),
        "bzip2.tar.bz2": bz2.compress(tarred((member("a.png"), image))),
        "archives-only.zip": zipped({"0.tar": tarred((member("a.png"), image)), "1.7z": b"7z\xbc\xaf\x27\x1c"}),
    }


def _named(name: bytes, data: bytes, extra: bytes = b"") -> bytes:
    """Write a zip of one member whose name and extra field are just these bytes."""
    fields = (0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), len(extra))
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *fields) + name + extra + data
    record = struct.pack("<4s4B4H3L5H2L", b"PK\1\2", 20, 0, 20, 0, *fields, 0, 0, 0, 0, 0) + name + extra
    return local + record + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(record), len(local), 0)


def _twice(image: bytes) -> bytes:
    with pytest.warns(UserWarning, match="Duplicate name"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("same.png", image)
            archive.writestr("same.png", image)
    return out.getvalue()


def test_there_are_enough_of_them() -> None:
    assert len(pictures()) + len(archives()) >= 60


def test_hostile_pictures(client: Client, unharmed: None, tmp_path: Path) -> None:
    expected = pictures()
    path = tmp_path / "pictures.zip"
    path.write_bytes(zipped({name: data for name, (data, _) in expected.items()}, zipfile.ZIP_STORED))
    job = client.embed(path, collection="hostile-pictures", backbone="fake").wait(timeout_s=120)
    items = {item.key: item for item in job.items()}
    assert items.keys() == expected.keys()
    wrong = {
        name: (item.status.value, item.error)
        for name, item in items.items()
        if (item.error.code if item.error else "") not in expected[name][1]
    }
    assert wrong == {}
    assert all(
        (item.error is None) == (item.status in (ItemStatus.EMBEDDED, ItemStatus.REUSED)) for item in items.values()
    )
    assert job.status == JobStatus.PARTIAL


def test_hostile_archives(client: Client, unharmed: None, tmp_path: Path) -> None:
    answers = {}
    for name, data in archives().items():
        (tmp_path / name).write_bytes(data)
        answers[name] = _answer(client, tmp_path / name, "hostile-archives")
    refused = {name for name, answer in answers.items() if answer[0] == "refused"}
    assert {"cut.tar.gz"} <= refused
    accepted = {name: answer for name, answer in answers.items() if answer[0] != "refused"}
    assert all(status in ("succeeded", "partial", "failed") for status, _ in accepted.values()), accepted
    codes = {code for _, found in accepted.values() for code in found}
    assert codes <= {
        *("empty_source", "source_unreadable", "fetch_refused", "decompression_bomb", "too_large", "decode_error"),
        *("unsupported_format", "duplicate_key", "invalid_request", "empty_file", "not_found"),
    }
    for name in ("bomb.zip", "symlink.zip", "links.tar", "devices.tar", "empty.zip", "hidden.zip", "nested.zip"):
        assert answers[name][0] in ("failed", "refused"), (name, answers[name])
    keys = {image.key for image in client.images("hostile-archives")}
    assert not any(key.startswith("/") or ".." in key.split("/") for key in keys)


def test_odd_archives(client: Client, unharmed: None, tmp_path: Path) -> None:
    answers = {}
    for name, data in odd_archives().items():
        (tmp_path / name).write_bytes(data)
        answers[name] = _answer(client, tmp_path / name, f"odd-{name}")
    ended = {name: answer[0] for name, answer in answers.items()}
    refused = {"seven.7z", "rar.rar", "bzip2.tar.bz2"}
    failed = {
        "system.zip",
        "link-round.tar",
        "link-itself.tar",
        "link-to-folder.tar",
        "controls.tar",
        "unicode-path-up.zip",
    }
    failed |= {"archives-only.zip"}
    partial = {"link-chain.tar"}
    assert {name for name, end in ended.items() if end == "refused"} == refused, answers
    assert {name for name, end in ended.items() if end == "failed"} == failed, answers
    assert {name for name, end in ended.items() if end == "partial"} == partial, answers
    (only,) = client.images("odd-cp932.zip")
    assert only.key.replace("%5C", "\\").encode("cp437").decode("cp932") == "表.png"
    assert [image.key for image in client.images("odd-unicode-path.zip")] == ["again.png"]
    assert [image.key for image in client.images("odd-unicode-path-of-another.zip")] == ["__.png"]
    (only,) = client.images("odd-sidecar.zip")
    assert only.metadata == {"n": None, "caption": "said"}


def _answer(client: Client, path: Path, collection: str) -> tuple[str, set[str]]:
    try:
        job = client.embed(path, collection=collection, backbone="fake", upload=True).wait(timeout_s=60)
    except errors.ImagekinError as error:
        assert 400 <= error.http_status < 500, (path.name, error)
        return "refused", {error.code}
    found = {item.error.code for item in job.items() if item.error}
    return job.status.value, found | ({job.error.code} if job.error else set())
