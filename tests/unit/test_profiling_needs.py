"""What measuring a layer will hold, and how it is cut so that it is less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.profiling.needs import Need
from flexnn_ncnn.records.layout import BlobLayout
from param_tools.slicing.rule import Axis
from tests.property.slicing_stock import model_of
from tests.unit import profiles

KERNELS = ("default", "winograd23", "sgemm")
PART_BYTES = 16_000_000


def convolution(channels: int, outputs: int, size: int) -> Need:
    """A 3x3 convolution of `size` x `size` pixels."""
    count = channels * outputs * 9
    line = f"Convolution conv 1 1 in0 out 0={outputs} 1=3 4=1 5=0 6={count}"
    layer = next(one for one in model_of(["Input in0 0 1 in0", line]).layers if one.name == "conv")
    bottom = BlobLayout(3, size, size, 1, channels, 4, 1)
    axis = Axis("outputs", outputs, 16, exact=True, blob_axis="c") if outputs % 16 == 0 else None
    return Need(layer, KERNELS, (bottom,), outputs * size * size * 4, count * 4, count * 4, axis)


@settings(deadline=None)
@given(
    channels=st.integers(1, 512),
    outputs=st.integers(1, 512),
    size=st.integers(4, 256),
    room_bytes=st.integers(1_000_000, 400_000_000),
)
def test_a_layer_is_cut_into_what_there_is_room_for(channels: int, outputs: int, size: int, room_bytes: int) -> None:
    need = convolution(channels, outputs, size)
    assume(need.least_bytes() <= room_bytes)
    spans, rows = need.cut(room_bytes, PART_BYTES)
    assert need.bytes_of(spans, rows) <= room_bytes
    assert [begin for begin, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == (need.axis.units if need.axis else 1)


def test_a_layer_that_fits_is_not_cut() -> None:
    need = convolution(64, 64, 56)
    whole = need.bytes_of(need.spans(PART_BYTES), 0)
    assert need.cut(whole, PART_BYTES) == (need.spans(PART_BYTES), 0)
    spans, rows = need.cut(whole // 2, PART_BYTES)
    assert (rows, len(spans)) != (0, 1)


def test_where_nothing_fits_it_is_cut_as_finely_as_it_can_be() -> None:
    need = convolution(64, 128, 112)
    spans, rows = need.cut(1, PART_BYTES)
    assert (len(spans), rows) == (4, 12)
    assert need.bytes_of(spans, rows) == need.least_bytes()


@pytest.mark.parametrize(("budget_bytes", "does"), [(0, False), (59, True), (60, True), (61, False)])
def test_a_profile_made_within_a_bound_serves_budgets_up_to_it(budget_bytes: int, does: bool) -> None:
    bounded = replace(profiles.model(profiles.layer("a", "in")), bound_bytes=60)
    assert bounded.serves(budget_bytes) is does
    assert replace(bounded, bound_bytes=0).serves(budget_bytes)
