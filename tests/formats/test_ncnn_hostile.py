"""Hostile model files: refused with an error of ours, in memory that the file's own size bounds."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import networkx  # noqa: F401 - which a cycle is found with: importing it is not what a file costs
import pytest

from param_tools.errors import FlexnnError, ModelFormatError
from param_tools.model_io import open_model
from param_tools.param_binary import parse_param_binary
from param_tools.param_text import parse_param
from param_tools.shapes import BlobShape, infer_shapes

HEAD = "7767517\n2 2\nInput in 0 1 a\n"
MANY = 1_000_000


def peak_bytes(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


TEXTS = {
    "huge layer count": "7767517\n999999999 2\nInput in 0 1 a\n",
    "huge blob count": "7767517\n2 999999999\nInput in 0 1 a\n",
    "counts past 64 bits": "7767517\n99999999999999999999999 1\n",
    "count of ten thousand digits": f"7767517\n{'9' * 10_000} 1\n",
    "huge input count": "7767517\n1 1\nNoop in 999999999 1 a\n",
    "huge array length": f"{HEAD}ReLU r 1 1 a b -23300=999999999,1\n",
    "array length past 64 bits": f"{HEAD}ReLU r 1 1 a b -23300=99999999999999999999,1\n",
    "parameter id past 64 bits": f"{HEAD}ReLU r 1 1 a b {'9' * 5000}=1\n",
    "integer of a megabyte": f"{HEAD}ReLU r 1 1 a b 0={'9' * MANY}\n",
    "float of a megabyte": f"{HEAD}ReLU r 1 1 a b 0=0.{'9' * MANY}\n",
    "exponent of a megabyte": f"{HEAD}ReLU r 1 1 a b 0=1e{'9' * MANY}\n",
    "string of a megabyte": f'{HEAD}ReLU r 1 1 a b 0="{"x" * MANY}"\n',
    "name of a megabyte": f"7767517\n1 1\nInput {'x' * MANY} 0 1 a\n",
    "quotes without end": f"{HEAD}ReLU r 1 1 a b " + '0="' * 100_000 + "\n",
    "brackets in brackets": f"{HEAD}ReLU r 1 1 a b 0={'[' * 100_000}\n",
    "a shape expression nested deeply": f'{HEAD}Reshape r 1 1 a b 6="{"abs(" * 1000}"\n',
    "a million tokens in a line": f"{HEAD}ReLU r 1 1 a b {'0=1 ' * MANY}\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_hostile_text_is_refused_in_bounded_memory(text: str) -> None:
    def refuse() -> None:
        with pytest.raises(ModelFormatError) as caught:
            parse_param(text, path="m.param")
        assert len(str(caught.value)) < 300

    assert peak_bytes(refuse) < 1_000_000 + 100 * len(text)


def test_a_million_blobs_are_read() -> None:
    outputs = " ".join(map(str, range(MANY)))
    model = parse_param(f"7767517\n1 {MANY}\nInput in 0 {MANY} {outputs}\n")
    assert len(model.producers) == MANY


def test_a_deep_graph_is_read_sorted_and_measured() -> None:
    deep = 20_000
    lines = [f"ReLU r{i} 1 1 b{i} b{i + 1}" for i in range(deep)]
    model = parse_param("\n".join(("7767517", f"{deep + 1} {deep + 1}", "Input in 0 1 b0", *lines)))
    assert model.topological_order() == tuple(range(deep + 1))
    assert infer_shapes(model, {"b0": BlobShape(1, 4)})[f"b{deep}"] == BlobShape(1, 4)
    assert len(infer_shapes(model, {}).reasons) == deep + 1


def test_a_cycle_through_everything_is_named_briefly() -> None:
    deep = 50_000
    lines = [f"Noop r{i} 1 1 b{i} b{(i + 1) % deep}" for i in range(deep)]
    with pytest.raises(ModelFormatError, match="form a cycle") as caught:
        parse_param("\n".join(("7767517", f"{deep} {deep}", *lines)))
    assert len(str(caught.value)) < 500


LAYERS = {
    "product past 64 bits": "MemoryData m 0 1 b 0=2147483647 1=2147483647 11=2147483647 2=2147483647",
    "product past an int": "Gemm m 1 1 a b 5=1 8=65536 9=65536",
    "more than the file": "LayerNorm m 1 1 a b 0=2147483647",
    "negative size": "InnerProduct m 1 1 a b 0=-4 2=-16",
    "negative outputs": "Convolution m 1 1 a b 0=-3 1=1 6=9",
    "division by zero": "MultiHeadAttention m 1 1 a b 0=0 1=0 2=0",
    "kernel of nothing": "Convolution m 1 1 a b 0=3 1=0 6=9",
    "negative kernel": "Convolution m 1 1 a b 0=3 1=-1 11=-1 6=9",
    "size the outputs do not divide": "Convolution m 1 1 a b 0=7 1=3 6=100",
    "float count": "LayerNorm m 1 1 a b 0=1e9",
    "array for a count": "LayerNorm m 1 1 a b 0=1,2",
    "string for a count": "LayerNorm m 1 1 a b 0=nan",
    "negative blocks": "Gemm m 1 1 a b 3=1 5=1 8=-1 9=-1 18=400",
    "unknown load type": "MemoryData m 0 1 b 0=4 21=-1",
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("size_bytes", [0, 4, 4096])
def test_hostile_layers_are_refused_without_allocating(layer: str, size_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "m.param").write_text(f"{HEAD}{layer}\n")
    (tmp_path / "m.bin").write_bytes(b"\1" * size_bytes)

    def refuse() -> None:
        with pytest.raises(FlexnnError, match=r"m\.(param|bin)"):
            open_model(tmp_path / "m.param")

    assert peak_bytes(refuse) < 1_000_000


def ints(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


GOOD = ints(7767517, 2, 2, 16, 0, 1, 0, -233, 26, 1, 1, 0, 1, -233)  # Input -> ReLU
BINARIES = {
    "empty": b"",
    "text": b"7767517\n1 1\n",
    "magic alone": GOOD[:4],
    "huge layer count": ints(7767517, 2**31 - 1, 2),
    "huge blob count": ints(7767517, 2, 2**31 - 1),
    "negative layer count": ints(7767517, -1, 2),
    "no layers": ints(7767517, 0, 0),
    "huge input count": ints(7767517, 2, 2, 26, 2**31 - 1, 1, 0),
    "negative input count": ints(7767517, 2, 2, 26, -1, 1, 0),
    "unknown type": ints(7767517, 2, 2, 200, 0, 1, 0, -233) + GOOD[32:],
    "negative type": ints(7767517, 2, 2, -5, 0, 1, 0, -233) + GOOD[32:],
    "blob outside": ints(7767517, 2, 2, 16, 0, 1, 2, -233) + GOOD[32:],
    "negative blob": ints(7767517, 2, 2, 16, 0, 1, -1, -233) + GOOD[32:],
    "parameter id": ints(7767517, 2, 2, 16, 0, 1, 0, 32, 1, -233) + GOOD[32:],
    "parameter twice": ints(7767517, 2, 2, 16, 0, 1, 0, 0, 1, 0, 1, -233) + GOOD[32:],
    "huge array": ints(7767517, 2, 2, 16, 0, 1, 0, -23300, 2**31 - 1),
    "negative array": ints(7767517, 2, 2, 16, 0, 1, 0, -23300, -1, -233) + GOOD[32:],
    "huge string": ints(7767517, 2, 2, 16, 0, 1, 0, -23400, 2**31 - 1),
    "string past 255": ints(7767517, 2, 2, 16, 0, 1, 0, -23400, 256) + bytes(256) + GOOD[28:],
    "not a number": ints(7767517, 2, 2, 16, 0, 1, 0, -233, 26, 1, 1, 0, 1, 0, 0x7FC00000, -233),
    "trailing bytes": GOOD + b"\0",
    "more blobs than made": ints(7767517, 2, 3) + GOOD[12:],
    "cycle": ints(7767517, 2, 2, 26, 1, 1, 1, 0, -233, 26, 1, 1, 0, 1, -233),
}


def test_the_binary_that_the_hostile_ones_vary_is_good() -> None:
    assert [layer.type for layer in parse_param_binary(GOOD).layers] == ["Input", "ReLU"]


@pytest.mark.parametrize("data", BINARIES.values(), ids=BINARIES)
def test_hostile_binary_is_refused_in_bounded_memory(data: bytes) -> None:
    def refuse() -> None:
        with pytest.raises(ModelFormatError, match=r"m\.param\.bin"):
            parse_param_binary(data, path="m.param.bin")

    assert peak_bytes(refuse) < 1_000_000


@pytest.mark.parametrize("cut", range(1, len(GOOD)))
def test_binary_is_refused_wherever_it_ends(cut: int) -> None:
    with pytest.raises(ModelFormatError):
        parse_param_binary(GOOD[:-cut])
