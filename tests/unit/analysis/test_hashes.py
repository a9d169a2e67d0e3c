"""Perceptual hashes against the imagehash package, and near hashes against all comparisons."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from imagekin import errors
from imagekin_worker.analysis import alignment, hashes


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A smooth picture with some detail."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    fine = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize(size)
    return Image.blend(coarse, fine, 0.2)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_hashes_are_those_of_imagehash_bit_for_bit(seed: int) -> None:
    data = jpeg(picture(seed))
    found = hashes.of_thumbnail(data)
    thumbnail = Image.open(io.BytesIO(data))
    assert f"{found.hash:016x}" == str(imagehash.phash(thumbnail))
    assert f"{found.mirrored:016x}" == str(imagehash.phash(ImageOps.mirror(thumbnail)))
    assert found.gray.shape == (hashes.GRAY_DIM,) and found.gray.dtype == np.uint8


def test_a_thumbnail_has_nearly_the_hash_of_its_picture() -> None:
    for seed in range(8):
        large = picture(seed, (1200, 900))
        small = hashes.of_thumbnail(jpeg(large.resize((160, 120))))
        assert hashes.distances(np.array(small.hash, np.uint64), np.array(hashes.of(large).hash, np.uint64)) <= 2


def test_what_is_no_jpeg_is_refused() -> None:
    with pytest.raises(OSError):
        hashes.of_thumbnail(b"no picture")


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=12), st.integers(0, 8), st.integers(0, 1 << 32))
def test_near_hashes_are_all_found(drawn: list[int], radius: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    given_hashes = np.array(drawn, np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << random.integers(0, 64, (len(drawn), 6)).astype(np.uint64), axis=1)
    every = np.concatenate([given_hashes, given_hashes ^ flips, given_hashes[:3]])
    near = np.triu(hashes.distances(every[:, None], every[None]) <= radius, 1)
    search = hashes.HashPairs(every, radius, most=10_000)
    search.advance()
    np.testing.assert_array_equal(search.result(), np.argwhere(near))
    across = hashes.HashPairs(every, radius, most=10_000, start=len(drawn))
    across.advance()
    near[len(drawn) :] = near[:, : len(drawn)] = False
    np.testing.assert_array_equal(across.result(), np.argwhere(near))


def test_near_hashes_are_the_same_after_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    every = random.integers(0, 1 << 20, 300).astype(np.uint64)
    straight = hashes.HashPairs(every, 3, most=50_000)
    straight.advance()
    monkeypatch.setattr(hashes, "STEP_COMPARISONS", 1)
    monkeypatch.setattr(hashes, "BLOCK_COMPARISONS", 64)
    stopped = hashes.HashPairs(every, 3, most=50_000)
    while not stopped.advance(lambda: True):
        stopped = hashes.HashPairs.resume(every, stopped.state(), most=50_000)
    np.testing.assert_array_equal(straight.result(), stopped.result())
    assert len(straight.result()) > 50 and stopped.fraction == 1
    with pytest.raises(errors.JobError):
        hashes.HashPairs.resume(every[1:], stopped.state(), most=50_000)


def test_too_many_near_hashes_are_refused() -> None:
    with pytest.raises(errors.JobError):
        hashes.HashPairs(np.zeros(100, np.uint64), 6, most=100).advance()


def test_correlations_are_numpys() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 5, hashes.GRAY_DIM), dtype=np.uint8)
    expected = [np.corrcoef(one, other)[0, 1] for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(hashes.correlations(first, second), expected, atol=1e-5)


def test_flat_pictures_are_alike_by_their_brightness() -> None:
    black, white = np.zeros((1, hashes.GRAY_DIM), np.uint8), np.full((1, hashes.GRAY_DIM), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (1, hashes.GRAY_DIM), dtype=np.uint8)
    assert hashes.correlations(black, black) == 1
    assert hashes.correlations(black, white) == hashes.correlations(black, noise) == 0


def test_a_cut_out_is_found_where_it_was() -> None:
    whole = [picture(seed, (480, 480)) for seed in range(6)]
    parts = [image.crop((30, 10, 440, 420)) for image in whole]
    grays = [np.stack([hashes.of(image).gray for image in images]) for images in (whole, parts)]
    plain = hashes.correlations(*grays)
    assert plain.max() < 0.9
    assert alignment.correlations(*grays).min() > 0.985
    np.testing.assert_allclose(alignment.correlations(*grays), alignment.correlations(*grays[::-1]), atol=1e-5)
    assert alignment.correlations(grays[0], np.roll(grays[1], 1, axis=0)).max() < 0.8
