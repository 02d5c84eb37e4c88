"""Turns pickled numpy weights into ncnn's order, trusting the pickle with nothing but arrays."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from param_tools.errors import FlexnnError

__all__ = ["ArrayUnpickler", "squeezenet_arrays"]

_RECONSTRUCT = np.empty(0).__reduce__()[0]
# numpy 2 renamed its core module; a pickle has the name its writer knew.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, strings, containers and numpy arrays; everything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names a pickled array needs."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise FlexnnError(f"the pickled weights want to call {module}.{name}, which is no numpy array") from None


def squeezenet_arrays(stream: IO[bytes]) -> Iterator[npt.NDArray[np.float32]]:
    """The weights of SqueezeNet 1.1 in the order of squeezenet11.param: (out, in, height, width) and bias in turn.

    Args:
        stream: a pickled dict, layer name -> [kernel (height, width, in, out), bias].

    Raises:
        FlexnnError: it is something else.
    """
    try:
        weights = ArrayUnpickler(stream).load()
        pairs = [tuple(weights[name]) for name in _squeezenet_names()]
    except FlexnnError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise FlexnnError(f"the pickled weights cannot be read: {error}") from error
    for name, pair in zip(_squeezenet_names(), pairs, strict=True):
        if len(pair) != 2 or not all(isinstance(one, np.ndarray) and one.dtype == np.float32 for one in pair):
            raise FlexnnError(f"the pickled weights of {name} are not two fp32 arrays")
        kernel, bias = pair
        if kernel.ndim != 4 or bias.shape != kernel.shape[3:]:
            raise FlexnnError(f"the pickled weights of {name} have shapes {kernel.shape} and {bias.shape}")
        yield np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), dtype="<f4")
        yield np.ascontiguousarray(bias, dtype="<f4")


def _squeezenet_names() -> list[str]:
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in ("squeeze1x1", "expand1x1", "expand3x3")]
    return ["conv1", *fires, "conv10"]
