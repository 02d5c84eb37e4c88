from __future__ import annotations

import pytest

from param_tools import schema
from param_tools.errors import ModelFormatError, UnsupportedLayerError
from param_tools.graph import Layer, ParamValue


def layer(layer_type: str, params: dict[int, object]) -> Layer:
    return Layer(layer_type, "probe", ("a",), ("b",), {key: ParamValue(value) for key, value in params.items()})  # type: ignore[arg-type]


CONV = layer("Convolution", {0: 8, 1: 3, 3: 2, 5: 1, 6: 288, 14: 1, 10: (0.5,)})


def test_defaults_follow_the_parameters_they_name() -> None:
    values = schema.int_params(CONV)
    assert (values["kernel_w"], values["kernel_h"]) == (3, 3)
    assert (values["stride_h"], values["dilation_h"]) == (2, 1)
    assert (values["pad_left"], values["pad_top"], values["pad_bottom"]) == (0, 1, 1)


def test_int_params_are_all_of_them_and_nothing_else() -> None:
    expected = {param.name for param in schema.LAYERS["Convolution"].params if param.kind == "int"}
    assert set(schema.int_params(CONV)) == expected
    assert "pad_value" not in expected


def test_kinds_and_defaults() -> None:
    assert schema.float_param(CONV, "pad_value") == 0.0
    assert schema.array_param(CONV, "activation_params") == (0.5,)
    assert schema.array_param(layer("Slice", {}), "slices") == ()
    assert schema.string_param(layer("Reshape", {6: "0w"}), "shape_expr") == "0w"
    assert schema.string_param(layer("Reshape", {}), "shape_expr") == ""
    assert schema.float_param(layer("MultiHeadAttention", {0: 64, 1: 4}), "scale") == 0.25
    assert schema.float_param(layer("Clip", {}), "max") == pytest.approx(3.4028235e38)


@pytest.mark.parametrize("params", [{0: 64, 1: 0}, {0: 0, 1: 1}, {0: -64, 1: 4}])
def test_defaults_that_cannot_be_computed_are_refused(params: dict[int, object]) -> None:
    with pytest.raises(ModelFormatError, match="its parameters give no scale"):
        schema.float_param(layer("MultiHeadAttention", params), "scale")


def test_parameters_are_changed_by_name() -> None:
    changed = schema.with_named_params(CONV, num_output=4, bias_term=None, pad_value=1.5)
    assert {key: value.value for key, value in changed.params.items()} == {
        0: 4,
        1: 3,
        3: 2,
        6: 288,
        10: (0.5,),
        14: 1,
        18: 1.5,
    }
    with pytest.raises(KeyError, match="Convolution has no parameter 'outputs'"):
        schema.with_named_params(CONV, outputs=4)


def test_ids_are_unique_and_in_range_within_a_type() -> None:
    for described in schema.LAYERS.values():
        ids = [param.id for param in (*described.params, *schema.COMMON_PARAMS)]
        assert len(ids) == len(set(ids)), described.type
        assert all(0 <= param_id <= 31 for param_id in ids), described.type


def test_array_specs() -> None:
    weight, bias = schema.array_specs(CONV)
    assert (weight.name, weight.dims, weight.count, weight.tagged, weight.packed) == (
        "weight",
        (8, 4, 3, 3),
        288,
        True,
        False,
    )
    assert (bias.name, bias.shape(CONV), bias.tagged) == ("bias", (8,), False)


def test_array_specs_of_variants() -> None:
    int8 = schema.with_named_params(CONV, int8_scale_term=102)
    assert [spec.name for spec in schema.array_specs(int8)] == [
        "weight",
        "bias",
        "weight_scales",
        "bottom_scale",
        "top_scale",
    ]
    assert schema.array_specs(schema.with_named_params(CONV, dynamic_weight=1)) == ()
    assert schema.array_specs(layer("ReLU", {})) == ()
    packed = layer("Gemm", {3: 1, 5: 1, 6: 1, 8: 6, 9: 70, 10: -1, 18: 611})
    assert [(spec.name, spec.dims, spec.packed) for spec in schema.array_specs(packed)] == [
        ("b", (6, 53), True),
        ("b_block_scales", (6, 2), False),
        ("b_input_scales", (70,), False),
    ]


def test_unknown_types_are_unsupported_by_name() -> None:
    for ask in (schema.describe, schema.array_specs, schema.int_params):
        with pytest.raises(UnsupportedLayerError, match="layer 'probe': unknown layer type 'Swizzle'"):
            ask(layer("Swizzle", {}))


def test_impossible_arrays_say_which_and_why() -> None:
    with pytest.raises(ModelFormatError) as caught:
        schema.array_specs(schema.with_named_params(CONV, weight_data_size=289))
    assert str(caught.value) == (
        "layer 'probe' (Convolution): its parameters give array 'weight' the impossible shape "
        "(num_output, inputs, kernel_h, kernel_w) = (8, 4, 3, 3) for 289 elements"
    )
