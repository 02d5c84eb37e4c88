from __future__ import annotations

import re

import pytest

from param_tools.errors import ModelFormatError
from param_tools.param_text import parse_param
from param_tools.shapes import BlobShape, ShapeReport, infer_shapes
from param_tools.shapes.expression import evaluate_list
from param_tools.shapes.rule import UnknownShapeError


def report(*lines: str, **inputs: BlobShape) -> ShapeReport:
    blobs = sum(int(line.split()[3]) for line in lines)
    return infer_shapes(parse_param("\n".join(("7767517", f"{len(lines)} {blobs}", *lines))), inputs)


IMAGE = BlobShape(3, 224, 112, 1, 3)


def test_blob_shape_in_both_orders() -> None:
    assert IMAGE.numpy_shape == (3, 112, 224)
    assert IMAGE.count == 3 * 112 * 224
    for shape in ((5,), (4, 5), (3, 4, 5), (2, 3, 4, 5)):
        assert BlobShape.from_numpy(shape).numpy_shape == shape
    assert BlobShape.from_numpy((2, 3, 4, 5)) == BlobShape(4, w=5, h=4, d=3, c=2)


@pytest.mark.parametrize("shape", [(), (1, 2, 3, 4, 5), (0,), (3, -1)])
def test_no_blob_has_such_a_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no blob has the shape"):
        BlobShape.from_numpy(shape)


def test_shapes_flow_through_the_graph() -> None:
    found = report(
        "Input in 0 1 a",
        "Convolution c 1 1 a b 0=16 1=3 3=2 4=1 6=432",
        "Split s 1 2 b c d",
        "Pooling p 1 1 c e 0=1 4=1",
        "Split t 1 2 e h i",
        "BinaryOp m 2 1 d h f 0=2",
        "InnerProduct i 1 1 i g 0=10 2=160",
        a=IMAGE,
    )
    assert found["f"] == BlobShape(3, 112, 56, 1, 16)
    assert found["g"] == BlobShape(1, 10)
    assert len(found) == 9
    assert not found.reasons


def test_shape_stated_in_the_param_is_used_and_overruled() -> None:
    lines = ("Input in 0 1 a 0=224 1=112 2=3", "ReLU r 1 1 a b")
    assert report(*lines)["b"] == IMAGE
    assert report(*lines, a=BlobShape(1, 7))["b"] == BlobShape(1, 7)


def test_unknown_input_says_so_and_what_follows_names_it() -> None:
    found = report("Input in 0 1 a", "ReLU r 1 1 a b")
    assert found["a"] is None
    assert found.reasons == {
        "a": "layer 'in' (Input): the .param does not state the input's shape: give it",
        "b": "layer 'r' (ReLU): the shape of its input 'a' is unknown",
    }


def test_hint_for_a_blob_takes_the_place_of_inference() -> None:
    lines = ("Input in 0 1 a", "Swizzle s 1 1 a b", "ReLU r 1 1 b c")
    assert "give its output's shape as a hint, or let it be measured" in report(*lines, a=IMAGE).reasons["b"]
    found = report(*lines, a=IMAGE, b=BlobShape(1, 5))
    assert found["c"] == BlobShape(1, 5)
    assert not found.reasons


def test_hint_for_no_blob_is_refused() -> None:
    with pytest.raises(ModelFormatError, match="no blob 'z' to give a shape to; inputs: a"):
        report("Input in 0 1 a", z=IMAGE)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Convolution c 1 1 a b 0=16 1=300 6=4320000", "a window of 300 does not fit the padded input of 112"),
        ("Convolution c 1 1 a b 0=16 1=3 3=0 6=432", "kernel 3 with stride 0"),
        ("Convolution c 1 1 a b 0=16.0 1=3 6=432", "should be an integer"),
        ("Reshape r 1 1 a b 0=1000", "has not the elements of"),
        ("Reshape r 1 1 a b", "it states no shape"),
        ("Slice s 1 1 a b -23300=1,4", r"slice 0\.\.4 of 3"),
        ("Crop c 1 1 a b 0=200 3=-233 4=-233 5=-233 6=100", "it would make a blob of shape"),
        ("Permute p 1 1 a b 0=6", "order 6 of a blob with 3 axes"),
        ("Concat c 1 1 a b 0=3", "axis 3 of a blob with 3 axes"),
        ("Reduction r 1 1 a b 1=0 -23303=1,5", "axis 5 of a blob with 3 axes"),
        ("PixelShuffle p 1 1 a b 0=2", r"shape \(0, 224, 448\)"),
        ("Tile t 1 1 a b -23302=3,9000,9000,9000", "a blob of .* elements"),
        ("YoloDetectionOutput y 1 1 a b", "depends on the data"),
        ("Gemm g 1 1 a b", "it has only 1 inputs"),
        ('Reshape r 1 1 a b 6="sin(0w)"', "'sin' is not supported"),
        ("Interp i 1 1 a b 0=2 1=3.0e38 2=3.0e38", r"112 times 3e\+38"),
    ],
)
def test_what_cannot_be_has_a_reason(line: str, words: str) -> None:
    found = report("Input in 0 1 a", line, a=IMAGE)
    assert found["b"] is None
    assert re.search(words, found.reasons["b"])


def test_outputs_only_running_tells_do_not_hide_the_others() -> None:
    lines = [f"Input i{blob} 0 1 {blob}" for blob in "qkvxy"]
    shape = BlobShape(3, 8, 4, 1, 2)
    found = report(*lines, "SDPA s 5 3 q k v x y out nk nv 7=1", **dict.fromkeys("qkvxy", shape))
    assert found["out"] == shape
    assert found["nk"] is None
    assert found.reasons["nk"] == "only running layer 's' (SDPA) tells"


def test_shape_expressions() -> None:
    shape = (3, 112, 224)
    assert evaluate_list("*(0w,2),//(0h,3),0c", [shape]) == [448, 37, 3]
    assert evaluate_list("+(0w,-1),-(0h,1),max(0c,7),min(1w,4)", [shape, (9,)]) == [223, 111, 7, 4]
    assert evaluate_list("floor(/(0w,3)),ceil(/(0w,3)),trunc(neg(/(0w,3)))", [shape]) == [74, 75, -74]
    assert evaluate_list("//(neg(7),2)", []) == [-3], "as C divides"
    assert evaluate_list("0d", [shape]) == [1]


@pytest.mark.parametrize("text", ["1w", "+(1)", "//(1,0)", "/(1,0)", "sin(1)", "1.5", "abs", "99999999999"])
def test_expressions_that_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(UnknownShapeError, match="cannot be evaluated"):
        evaluate_list(text, [])
