"""Embed over the rows in use, against stock ncnn."""

from __future__ import annotations

import numpy as np
import pytest

from param_tools.encoding import Encoding
from tests.integration.pipeline import AMPLE_BYTES, Array, assert_close, prepared, step_of

pytestmark = pytest.mark.patched

WORDS, WIDTH = 500, 12
EMBED = [
    "Input ids 0 1 ids",
    f"Embed words 1 1 ids rows 0={WIDTH} 1={WORDS} 2=1 3={WORDS * WIDTH}",
    "Softmax soft 1 1 rows out 0=1 1=1",
]


def ids(*values: int) -> dict[str, Array]:
    return {"ids": np.array(values, np.int32)}


@pytest.mark.parametrize("encoding", [None, Encoding.FP16, Encoding.TABLE], ids=str)
@pytest.mark.parametrize(
    "values",
    [(3,), (5, 2, 499, 0), (7, 7, 7), (-1, -500, 0), (500, 10**6, 499), tuple(range(100))],
    ids=["one", "some", "the same", "below", "above", "many"],
)
def test_rows_are_those_of_stock(values: tuple[int, ...], encoding: Encoding | None) -> None:
    with prepared(EMBED, ids(*values), encoding=encoding) as found:
        assert found.layer("words").mode == "gather"
        assert_close(found.run(found.plan()), found.stock(), 0)


def test_other_ids_than_those_profiled() -> None:
    with prepared(EMBED, ids(1, 2, 3, 4)) as found:
        other = ids(4, 4, 490, -7)
        assert_close(found.run(found.plan(), other), found.stock(inputs=other), 0)


def test_only_the_rows_in_use_count() -> None:
    with prepared(EMBED, ids(1, 2, 3, 3)) as found:
        assert found.layer("words").raw_bytes <= 4 * (4 * WIDTH + WIDTH)
        plan = found.plan(AMPLE_BYTES)
        assert not step_of(plan, "words").resident
