"""Sliced against whole, both through files and stock ncnn: the same bits where the axis says so, near elsewhere."""

from __future__ import annotations

import ncnn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from param_tools.encoding import Encoding
from param_tools.shapes import BlobShape
from param_tools.slicing.cut import Cut, file_axes
from param_tools.slicing.policy import cuts
from param_tools.slicing.rule import Axis
from tests.examples import examples
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
    for axis in axes_of(case):
        compare(case, axis, data.draw(st.integers(1, axis.units), f"most {axis.name} in a slice"), opt)


def axes_of(case: Case) -> tuple[Axis, ...]:
    model = model_of(case.layers)
    return file_axes(model, len(model.layers) - 1, shapes_of(case))


def shapes_of(case: Case) -> dict[str, BlobShape]:
    return dict(zip(case.feeds, case.shapes, strict=True))


def compare(case: Case, axis: Axis, most: int, opt: ncnn.Option) -> None:
    """Compares the layer with its slices of at most `most` units, as far as the axis allows."""
    ranges = cuts(axis.units, axis.granularity, 1, most, axis.least_units, axis.odd)
    if len(ranges) < 2:
        return
    cut = Cut(len(case.shapes), axis.name, ranges)
    whole, sliced, done = whole_and_sliced(case.layers, case.feeds, [cut], opt, shapes_of(case), case.encoding)
    assert [one.exact for one in done.cut_layers] == [axis.exact]
    if axis.exact:
        np.testing.assert_array_equal(sliced, whole, f"{axis} {ranges}")
    else:
        narrow = case.encoding is Encoding.INT8 or opt.use_fp16_storage
        largest = np.abs(whole[np.isfinite(whole)]).max(initial=0)
        tolerance = (_NARROW_TOLERANCE if narrow else _FLOAT32_TOLERANCE) * largest
        np.testing.assert_allclose(sliced, whole, 0, tolerance, err_msg=f"{axis} {ranges}")


# Each of these once differed by a bit, under a rule that claimed too much.
TRAPS = [
    ("ConvolutionDepthWise", "0=20 1=3 4=-234 6=180 7=20", (20, 10, 13)),  # kernels that compute two rows at a time
    ("Convolution", "0=64 1=7 3=2 4=3 6=9408", (3, 40, 40)),  # direct kernels for few outputs
    ("Convolution", "0=64 1=3 4=1 6=18432", (32, 20, 20)),  # winograd 63 for few outputs
    ("Convolution", "0=96 1=3 4=1 6=55296", (64, 30, 20)),  # winograd tiles
    ("Convolution", "0=130 1=3 3=2 4=1 6=37440", (32, 27, 21)),  # outputs beside the lanes
    ("Convolution", "0=96 1=3 6=13824 9=5", (16, 34, 25)),  # mish beside the lanes
    ("Convolution", "0=64 1=3 2=2 4=2 6=18432", (32, 41, 40)),  # a dilated one, dense where packing is off
    ("InnerProduct", "0=1000 1=1 2=100000", (100,)),  # eight lanes, and sixteen in even multiples of eight
    ("Gemm", "4=1 6=1 7=33 8=40 9=64 10=3", (64, 40)),  # rows beside the tiles
    ("BinaryOp", "0=3", (24, 19, 12)),  # division in lanes
]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("kind", "params", "shape"), TRAPS)
def test_known_traps(kind: str, params: str, shape: tuple[int, ...], packing: bool) -> None:
    inputs = 2 if kind == "BinaryOp" else 1
    case = Case(kind, params, (BlobShape.from_numpy(shape),) * inputs, Encoding.FP32)
    found = axes_of(case)
    assert found
    for axis in found:
        for most in (1, axis.units // 2):
            compare(case, axis, most, option(packing=packing))


def sweep(max_examples: int) -> settings:
    return settings(max_examples=examples(max_examples), deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
