"""ncnn.Net: stock ncnn as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ncnn
import numpy.typing as npt

from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime.native.layers import make_option
from flexnn_ncnn.runtime.native.mats import HandOut, NcnnError, mat_from_array, mat_to_array
from param_tools.param_binary import is_binary

__all__ = ["StockNet"]


class StockNet:
    """The unmodified ncnn.Net, for comparison and for budgets that hold everything.

    Args:
        param_path, bin_path: the model.
        options: how to compute.
        kernel: a name in `flexnn_ncnn.records.options.KERNELS` for all layers.

    Raises:
        NcnnError: ncnn cannot load the files.
    """

    def __init__(self, param_path: str, bin_path: str, options: RunOptions, kernel: str = "default") -> None:
        self._net = ncnn.Net()
        self._net.opt = make_option(options, kernel)
        self._bf16 = options.bf16
        binary = _is_binary(param_path)
        load_param = self._net.load_param_bin if binary else self._net.load_param
        self._key: type[int] | type[str] = int if binary else str  # blobs of a binary .param are called by their index
        for call, path in ((load_param, param_path), (self._net.load_model, bin_path)):
            if call(path) != 0:
                raise NcnnError(f"stock ncnn cannot load {path}")

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str], hand_out: HandOut = mat_to_array
    ) -> dict[str, Any]:
        """Feed `inputs` by blob name and return `outputs`, which come in the order in which they are made.

        Args:
            inputs: an array per blob that is fed.
            outputs: blobs wanted.
            hand_out: makes of a blob what the caller gets; by default numpy arrays.
        """
        with self._net.create_extractor() as extractor:
            for name, array in inputs.items():
                if extractor.input(self._key(name), mat_from_array(array).clone()) != 0:
                    raise NcnnError(f"the network has no input blob {name!r}")
            found = {}
            for name in outputs:
                code, mat = extractor.extract(self._key(name), type=1)  # as it lies: any other is copied twice
                if code != 0:
                    raise NcnnError(f"stock ncnn cannot extract blob {name!r}: it returned {code}")
                found[name] = hand_out(mat, self._bf16, None)
            return found

    def close(self) -> None:
        """Free the network."""
        self._net.clear()


def _is_binary(param_path: str) -> bool:
    try:
        with open(param_path, "rb") as file:
            return is_binary(file.read(4))
    except OSError:
        return False  # ncnn cannot open it either
