from __future__ import annotations

import io
import os
import pickle
from typing import Any

import numpy as np
import pytest

from flexnn_ncnn.paths import data_dir
from flexnn_ncnn.zoo.generated import write_arrays
from flexnn_ncnn.zoo.trained import ArrayUnpickler, squeezenet_arrays
from param_tools.errors import FlexnnError
from param_tools.model_io import read_param
from param_tools.schema import array_specs

GRAPH = read_param(data_dir() / "squeezenet11.param")


def squeezenet_weights() -> dict[str, list[np.ndarray[Any, Any]]]:
    """Weights of the right shapes under the package's names; every value of a kernel is different."""
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in ("squeeze1x1", "expand1x1", "expand3x3")]
    names = iter(["conv1", *fires, "conv10"])
    weights: dict[str, list[np.ndarray[Any, Any]]] = {}
    for layer in GRAPH.layers:
        if layer.type == "Convolution":
            out, inputs, height, width = array_specs(layer)[0].shape(layer)
            kernel = np.arange(out * inputs * height * width, dtype=np.float32).reshape(height, width, inputs, out)
            weights[next(names)] = [kernel, np.full(out, len(weights), dtype=np.float32)]
    return weights


def dumped(weights: object, protocol: int = 3) -> io.BytesIO:
    return io.BytesIO(pickle.dumps(weights, protocol))


class Call:
    def __init__(self, *target: Any) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return self.target[0], self.target[1:]


@pytest.mark.parametrize(
    "call",
    [Call(os.system, "true"), Call(eval, "1"), Call(getattr, "a", "b"), Call(np.load, "x.npy"), Call(np.empty, 9)],
)
def test_unpickler_calls_nothing_but_array_reconstruction(call: Call) -> None:
    with pytest.raises(FlexnnError, match=r"want to call .*, which is no numpy array"):
        ArrayUnpickler(dumped({"conv1": [call]})).load()


@pytest.mark.parametrize("protocol", range(3, 5))
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_unpickler_reads_arrays_of_either_numpy(protocol: int, module: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = pickle.dumps([array], protocol)
    for spelling in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        if protocol < 4:  # the name is a line of text there, of any length
            data = data.replace(spelling + b"\n", module.encode() + b"\n")
    np.testing.assert_array_equal(ArrayUnpickler(io.BytesIO(data)).load()[0], array)


def test_kernels_are_turned_to_ncnns_order() -> None:
    weights = squeezenet_weights()
    arrays = list(squeezenet_arrays(dumped(weights)))
    specs = [spec for layer in GRAPH.layers for spec in array_specs(layer)]
    assert [array.shape for array in arrays] == [spec.dims for spec in specs]
    kernel = weights["fire2/expand3x3"][0]  # (height, width, in, out)
    assert arrays[6].flags.c_contiguous
    assert arrays[6][5, 3, 1, 2] == kernel[1, 2, 3, 5]
    np.testing.assert_array_equal(arrays[7], weights["fire2/expand3x3"][1])
    sink = io.BytesIO()
    write_arrays(GRAPH, arrays, sink)
    written = np.frombuffer(sink.getvalue(), "<f4")
    assert sink.tell() == 4_942_088
    np.testing.assert_array_equal(written[: 1 + arrays[0].size], [0, *arrays[0].ravel()])


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"no pickle",
        pickle.dumps(3),
        pickle.dumps({"conv1": 3}),
        pickle.dumps({}),
    ],
)
def test_what_is_no_pickled_dict_of_pairs_is_one_sentence(wrong: bytes) -> None:
    with pytest.raises(FlexnnError, match="pickled weights cannot be read"):
        list(squeezenet_arrays(io.BytesIO(wrong)))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ([np.zeros((3, 3, 3, 64), np.float64), np.zeros(64, np.float32)], "not two fp32 arrays"),
        ([np.zeros((3, 3, 3, 64), np.float32)], "not two fp32 arrays"),
        ([np.zeros((3, 3, 3, 64), np.float32), "bias"], "not two fp32 arrays"),
        ([np.zeros((3, 64), np.float32), np.zeros(64, np.float32)], r"shapes \(3, 64\) and \(64,\)"),
        ([np.zeros((3, 3, 3, 64), np.float32), np.zeros(63, np.float32)], r"and \(63,\)"),
    ],
)
def test_arrays_of_another_kind_name_the_layer(pair: list[Any], message: str) -> None:
    with pytest.raises(FlexnnError, match=f"conv1 .*{message}"):
        list(squeezenet_arrays(dumped({**squeezenet_weights(), "conv1": pair})))


def test_arrays_of_another_network_are_refused() -> None:
    weights = squeezenet_weights()
    weights["conv10"] = [np.zeros((1, 1, 512, 10), np.float32), np.zeros(10, np.float32)]
    with pytest.raises(
        FlexnnError, match=r"trained weight of convrelu_25 is \(10, 512, 1, 1\), not \(1000, 512, 1, 1\)"
    ):
        write_arrays(GRAPH, squeezenet_arrays(dumped(weights)), io.BytesIO())
    with pytest.raises(FlexnnError, match="there are 3 trained weight arrays, the graph asks for 52"):
        write_arrays(GRAPH, list(squeezenet_arrays(dumped(weights)))[:3], io.BytesIO())
