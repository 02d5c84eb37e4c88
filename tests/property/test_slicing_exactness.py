"""Sliced against whole, both through files and stock ncnn: the same bits where the axis says so, near elsewhere."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from param_tools.encoding import Encoding
from param_tools.slicing.cut import Cut, file_axes
from param_tools.slicing.policy import cuts
from tests.property import slicing_cases
from tests.property.slicing_cases import Case
from tests.property.slicing_stock import model_of, option, whole_and_sliced

# Parts of the largest output. fp16 or int8 weights round at 2^-11 or so of sums that an activation may clip to a sixth.
_FLOAT32_TOLERANCE = 1e-5
_NARROW_TOLERANCE = 5e-3


def check(case: Case, data: st.DataObject) -> None:
    """Cuts the layer along each of its axes and compares."""
    opt = option(
        data.draw(st.sampled_from([1, 2]), "threads"),
        packing=data.draw(st.booleans(), "packing"),
        fp16=data.draw(st.sampled_from([False, False, True]), "fp16"),
    )
    model = model_of(case.layers)
    shapes = dict(zip(model.input_blobs, case.shapes, strict=True))
    index = len(model.layers) - 1
    for axis in file_axes(model, index, shapes):
        most = data.draw(st.integers(1, axis.units), f"most {axis.name} in a slice")
        ranges = cuts(axis.units, axis.granularity, 1, most, axis.least_units, axis.odd)
        if len(ranges) < 2:
            continue
        whole, sliced, done = whole_and_sliced(
            case.layers, case.feeds, [Cut(index, axis.name, ranges)], opt, shapes, case.encoding
        )
        assert [one.exact for one in done.cut_layers] == [axis.exact]
        if axis.exact:
            np.testing.assert_array_equal(sliced, whole, f"{axis} {ranges}")
        else:
            narrow = case.encoding is Encoding.INT8 or opt.use_fp16_storage
            largest = np.abs(whole[np.isfinite(whole)]).max(initial=0)
            tolerance = (_NARROW_TOLERANCE if narrow else _FLOAT32_TOLERANCE) * largest
            np.testing.assert_allclose(sliced, whole, 0, tolerance, err_msg=f"{axis} {ranges}")


def sweep(max_examples: int) -> settings:
    return settings(max_examples=max_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@sweep(120)
@given(slicing_cases.convolutions(), st.data())
def test_convolutions(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.grouped_convolutions(), st.data())
def test_grouped_convolutions(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.other_convolutions(), st.data())
def test_other_convolutions(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.inner_products(), st.data())
def test_inner_products(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.gemms(), st.data())
def test_gemms(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(60)
@given(slicing_cases.attentions(), st.data())
def test_attentions(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(40)
@given(slicing_cases.embeds(), st.data())
def test_embeds(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.poolings(), st.data())
def test_poolings(case: Case, data: st.DataObject) -> None:
    check(case, data)


@sweep(80)
@given(slicing_cases.pointwise_layers(), st.data())
def test_pointwise_layers(case: Case, data: st.DataObject) -> None:
    check(case, data)
