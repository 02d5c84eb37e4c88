"""Rules on layers whose parameters make no sense: an error of ours, or slices that hold together."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from param_tools.errors import FlexnnError
from param_tools.graph import Layer
from param_tools.schema import LAYERS, array_specs, with_named_params
from param_tools.shapes import BlobShape
from param_tools.slicing.policy import cut_axis
from param_tools.slicing.registry import RULES, axes, take
from tests.examples import examples

_NUMBERS = st.one_of(st.integers(-2, 20), st.sampled_from([-234, -233, 48, 64, 100, 400, 410, 2**31 - 1, -(2**31)]))
_EXTENTS = st.one_of(st.integers(1, 9), st.just(2**20))
_SENSIBLE = {
    "num_output": 16,
    "kernel_w": 3,
    "weight_data_size": 16 * 16 * 27,
    "group": 16,
    "bias_term": 1,
    "input_dim": 432,
    "constantM": 32,
    "constantN": 32,
    "constantK": 8,
    "constantC": 1,
    "embed_dim": 16,
    "num_heads": 4,
    "channels": 16,
    "bias_data_size": 16,
    "scale_data_size": 16,
    "num_slope": 16,
}


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer of any cuttable type, some of its parameters sensible, some anything."""
    kind = draw(st.sampled_from(sorted(RULES)))
    layer = Layer(kind, "it", tuple(f"in{i}" for i in range(draw(st.sampled_from([1, 1, 1, 0, 2])))), ("out",))
    names = [param.name for param in LAYERS[kind].params if param.kind == "int"]
    sensible = {name: _SENSIBLE[name] for name in names if name in _SENSIBLE}
    anything = draw(st.dictionaries(st.sampled_from(names), _NUMBERS, max_size=3)) if names else {}
    return with_named_params(layer, **(sensible | anything))


@st.composite
def blob_shapes(draw: st.DrawFn) -> BlobShape:
    return BlobShape.from_numpy(draw(st.one_of(st.just([16, 8, 8]), st.lists(_EXTENTS, min_size=1, max_size=4))))


@settings(max_examples=examples(600), deadline=None)
@given(layers(), blob_shapes(), st.booleans(), st.integers(1, 1000))
def test_nonsense_ends_in_an_error_of_ours_or_in_whole_slices(
    layer: Layer, shape: BlobShape, known: bool, max_bytes: int
) -> None:
    shapes = (shape,) * len(layer.inputs) if known else ()
    try:
        found = axes(layer, shapes)
        specs = array_specs(layer)
    except FlexnnError:
        return
    for axis in found:
        assert axis.units > 1
        assert axis.granularity >= 1
        ranges = cut_axis(axis, axis.units * 100, max_bytes + axis.units // 50 * 100)
        for begin, end in (ranges[0], ranges[-1]):
            part = take(layer, axis.name, begin, end, shapes)
            taken = [
                specs[one.array_index].count // specs[one.array_index].dims[one.axis] * (one.end - one.begin)
                or specs[one.array_index].count
                for one in part.arrays
            ]
            assert taken == [spec.count for spec in array_specs(part.layer)]
            assert all(0 <= one.begin < one.end for one in part.inputs)
