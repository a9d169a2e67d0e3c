from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekin import errors
from imagekin.schemas import keys
from imagekin.sources import names

NAMES = st.one_of(
    st.text(st.characters(), max_size=50),
    st.text(st.sampled_from("a./\\\0é\u0301\ud800")),
    st.from_regex(r"https?:[/\\.a]*", fullmatch=True),
)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a.jpg", "a.jpg"),
        ("2024/May/a b.jpg", "2024/May/a b.jpg"),
        ("2024\\May\\a.jpg", "2024/May/a.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        (".hidden", ".hidden"),
        ("..a/b...", "..a/b..."),
        ("http:/host/a.jpg?x=1", "http:/host/a.jpg?x=1"),
        ("https://host/a.jpg?x=1", "https://host/a.jpg?x=1"),
        ("HTTP://host", "HTTP://host"),
        ("s3://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("é" * 512, "é" * 512),
    ],
)
def test_normalize_gives_one_spelling(name: str, key: str) -> None:
    assert keys.normalize(name) == key


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "part ''"),
        ("/etc/passwd", "part ''"),
        ("a//b", "part ''"),
        ("https://", "part ''"),
        ("https://host//a.jpg", "part ''"),
        ("https://host/../a.jpg", "part '..'"),
        ("C://a.jpg", "part ''"),
        ("a/", "part ''"),
        ("../a", "part '..'"),
        ("a/./b", "part '.'"),
        ("a\\..\\b", "part '..'"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x9fb", "control"),
        ("a\ud800", "Unicode"),
        ("é" * 513, "1,026 bytes"),
        ("a" * 1025, "1,025 bytes"),
        ("a" * 10_000, "10,000 characters"),
    ],
)
def test_normalize_refuses_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(errors.InvalidKey, match=reason):
        keys.normalize(name)


@given(NAMES)
def test_normalize_gives_a_key_that_stays_or_refuses(name: str) -> None:
    try:
        key = keys.normalize(name)
    except errors.InvalidKey:
        return
    assert keys.normalize(key) == key
    assert unicodedata.is_normalized("NFC", key)


@given(NAMES)
def test_harmless_gives_a_key_for_anything(name: str) -> None:
    assert keys.normalize(keys.harmless(name)) == keys.harmless(name)


@pytest.mark.parametrize("name", ["é" * 600, "a" * 1025, "a" * 100_000, "a\u0301\u0323" * 2000])
def test_harmless_keeps_long_names_apart(name: str) -> None:
    key = keys.harmless(name)
    assert len(key.encode()) <= keys.MAX_KEY_BYTES
    assert keys.normalize(key) == key
    assert key != keys.harmless(name + "b")


def test_harmless_shows_what_was_refused() -> None:
    assert keys.harmless("../../etc/\0passwd") == "etc/\ufffdpasswd"
    assert keys.harmless("../..") == "unnamed"
    assert keys.harmless("https://host//a/../b/") == "https://host/a/b"
    assert keys.harmless("https://") == "https://unnamed"


@given(st.one_of(NAMES, st.text(st.sampled_from("a.:/~ "), max_size=12)))
def test_what_is_plain_is_what_the_long_way_leaves_as_it_is(name: str) -> None:
    if not keys.is_plain(name):
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(keys, "is_plain", lambda name: False)
        assert keys.normalize(name) == name
        assert names.key_of(name) == (name, None)


def test_most_keys_are_plain() -> None:
    plain = ["a.jpg", "2024/05/a b (1).jpg", "..a/b...", ".hidden", "https://host/a.jpg?x=1&y=%20"]
    assert [name for name in plain if not keys.is_plain(name)] == []
    assert not keys.is_plain("a" * 1025) and keys.is_plain("a" * 1024)
