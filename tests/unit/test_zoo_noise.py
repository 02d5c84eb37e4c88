from __future__ import annotations

import hashlib

import numpy as np
import pytest

from flexnn_ncnn.zoo.noise import CHUNK_VALUES, UNIT_DEVIATION, noise_chunks
from flexnn_ncnn.zoo.noise import noise as make


def test_stream_never_changes() -> None:
    # Every hash in the manifest rests on these bytes.
    assert make(11, 0, 4, -2).tobytes().hex() == "00efa6be0013e23e00acbf3d00983f3d"
    digest = hashlib.sha256(make(126, 7, CHUNK_VALUES + 3, -5).tobytes()).hexdigest()
    assert digest == "ce1528d26e6efa1bb250e02a9b54b95442736006d2e9d7a793ecad2720e660ed"


def test_chunks_join_to_one_stream() -> None:
    chunks = list(noise_chunks(1, 2, 2 * CHUNK_VALUES + 5, 0))
    assert [len(chunk) for chunk in chunks] == [CHUNK_VALUES, CHUNK_VALUES, 5]
    assert all(chunk.dtype == np.dtype("<f4") for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate(chunks)[: CHUNK_VALUES + 9], make(1, 2, CHUNK_VALUES + 9))


def test_distribution_is_centred_with_the_stated_deviation() -> None:
    values = make(3, 4, 1_000_000).astype(np.float64)
    assert abs(values.mean()) < 0.005
    assert values.std() == pytest.approx(UNIT_DEVIATION, rel=0.005)
    assert np.abs(values).max() < 4
    # Four lanes: between a uniform's kurtosis of 1.8 and a Gaussian's of 3.
    assert np.mean(values**4) / np.mean(values**2) ** 2 == pytest.approx(2.7, abs=0.02)


def test_exponent_scales_exactly() -> None:
    np.testing.assert_array_equal(make(5, 6, 1000, -7), make(5, 6, 1000, 0) * np.float32(2**-7))


@pytest.mark.parametrize(("seed", "stream"), [(2, 1), (1, 2), (0, 0)])
def test_seed_and_stream_are_independent_keys(seed: int, stream: int) -> None:
    correlation = np.corrcoef(make(1, 1, 100_000), make(seed, stream, 100_000))[0, 1]
    assert abs(correlation) < 0.02


def test_nothing_is_an_empty_array() -> None:
    assert make(1, 1, 0).shape == (0,)
    assert list(noise_chunks(1, 1, 0, 0)) == []
