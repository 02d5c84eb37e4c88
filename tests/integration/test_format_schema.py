"""The table of layer types against the installed ncnn."""

from __future__ import annotations

import re
from pathlib import Path

import ncnn
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from param_tools.errors import ModelFormatError
from param_tools.graph import Layer
from param_tools.param_binary import TYPE_NAMES
from param_tools.param_text import parse_param
from param_tools.schema import LAYERS, ONE_BLOB_TYPES, array_specs, int_params
from tests.examples import examples
from tests.integration.format_cases import CASES, Case, make_layer, ncnn_loads

BYTES = (3, 4, 6, 8)


def asked_for(layer: Layer) -> list[tuple[int, str]]:
    kinds = {0: "tagged", 1: "plain", **dict.fromkeys(BYTES, "bytes")}
    loads = ncnn_loads(layer)
    assert loads is not None, "ncnn refuses the parameters"
    return [(count, kinds[load]) for count, load in loads]


def foretold(layer: Layer) -> list[tuple[int, str]]:
    return [
        (spec.count, "tagged" if spec.tagged else "bytes" if spec.packed else "plain") for spec in array_specs(layer)
    ]


@pytest.mark.parametrize("layer_type", LAYERS)
def test_every_type_of_the_table_is_built_into_ncnn(layer_type: str) -> None:
    assert ncnn.create_layer(layer_type) is not None


def test_the_table_has_every_type_that_ncnn_registers() -> None:
    library = Path(ncnn.ncnn.__file__).read_bytes()
    candidates = {word.decode() for word in re.findall(rb"[A-Z][A-Za-z0-9]{2,30}", library)} | set(TYPE_NAMES)
    registered = {name for name in candidates if ncnn.layer_to_index(name) >= 0}
    assert len(registered) > 100
    assert {name for name in registered if ncnn.create_layer(name) is not None} == set(LAYERS)


@pytest.mark.parametrize("layer_type", LAYERS)
def test_blob_counts_are_limited_as_in_ncnn(layer_type: str) -> None:
    limited = layer_type in ONE_BLOB_TYPES
    if limited:
        assert ncnn.create_layer(layer_type).one_blob_only
    text = f"7767517\n2 4\nInput i 0 2 a b\n{layer_type} l 2 2 a b c d\n"
    refused = ncnn.Net().load_param_mem(text) != 0
    assert refused or not limited
    try:
        parse_param(text)
    except ModelFormatError:
        assert limited


def test_type_indices_of_the_binary_format_are_those_of_ncnn() -> None:
    assert [ncnn.layer_to_index(name) for name in TYPE_NAMES] == list(range(len(TYPE_NAMES)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_arrays_are_those_that_ncnn_loads(case: Case) -> None:
    assert foretold(case.layer) == asked_for(case.layer)


def test_cases_exercise_every_row_of_the_table() -> None:
    rows = {(schema.type, array.name) for schema in LAYERS.values() for array in schema.arrays}
    assert {(case.layer.type, spec.name) for case in CASES for spec in array_specs(case.layer)} == rows


@pytest.mark.parametrize("layer_type", [name for name, schema in LAYERS.items() if not schema.arrays])
def test_types_without_arrays_load_nothing(layer_type: str) -> None:
    assert not ncnn_loads(make_layer(layer_type))


# Values that make plausible layers: small sizes, terms that switch arrays on, everything else small.
_VALUES = {
    "int8_scale_term": st.sampled_from((0, 1, 2, 101, 102)),
    "quantize_term": st.sampled_from((0, 1, 2, 400, 411, 602, 812)),
    "constantA": st.sampled_from((0, 1, 2)),
    "constantB": st.sampled_from((0, 1, 2)),
    "constantC": st.sampled_from((0, 1, 2)),
    "constant_broadcast_type_C": st.integers(-1, 4),
    "direction": st.integers(0, 2),
    "load_type": st.sampled_from((0, 1, 3, 8)),
    "scale_data_size": st.sampled_from((-233, 1, 5)),
    "dynamic_weight": st.sampled_from((0, 0, 0, 1)),
}
_SIZE_NAMES = (
    "num_output group embed_dim num_heads kdim vdim hidden_size constantM constantN constantK kernel_w kernel_h "
    "kernel_d input_dim affine_size channels num_slope bias_data_size scale_in_data_size scale_out_data_size"
)
_SIZES = frozenset(_SIZE_NAMES.split())
_SWITCHES = {"bias_term", "affine", "transA", "transB"}


@st.composite
def weighted_layers(draw: st.DrawFn) -> Layer:
    schema = LAYERS[draw(st.sampled_from([name for name, schema in LAYERS.items() if schema.arrays]))]
    params: dict[str, object] = {}
    for param in schema.params:
        if param.name in _VALUES:
            params[param.name] = draw(_VALUES[param.name])
        elif param.name in _SIZES and draw(st.booleans()):
            params[param.name] = draw(st.integers(1, 6))
        elif param.name in _SWITCHES:
            params[param.name] = draw(st.integers(0, 1))
        elif param.name in ("w", "h", "d", "c", "per_channel_pad_data_size"):
            params[param.name] = draw(st.integers(0, 4))
    if any(param.name == "weight_data_size" for param in schema.params):
        params["weight_data_size"] = 1
        values = int_params(make_layer(schema.type, **params))
        unit = 24
        for name in ("num_output", "kernel_w", "kernel_h", "kernel_d", "group", "embed_dim", "hidden_size"):
            unit *= max(1, values.get(name, 1))
        params["weight_data_size"] = unit * draw(st.integers(1, 3))
    return make_layer(schema.type, **params)


@settings(max_examples=examples(600), deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(weighted_layers())
def test_arrays_are_those_that_ncnn_loads_for_any_parameters(layer: Layer) -> None:
    try:
        expected = foretold(layer)
    except ModelFormatError:
        event("refused by us")
        return
    loads = ncnn_loads(layer)
    event("refused by ncnn" if loads is None else f"{len(loads)} arrays")
    if loads is not None:
        assert expected == asked_for(layer)
