"""The only opener of model files: reads checked, writes atomic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from param_tools.check import check_model
from param_tools.errors import FlexnnError, ModelFormatError, UnsupportedLayerError
from param_tools.files import atomic_write, open_regular, settle
from param_tools.graph import Model
from param_tools.param_binary import is_binary, parse_param_binary
from param_tools.param_text import format_param, parse_param
from param_tools.schema import LAYERS, ArraySpec, array_specs
from param_tools.weights import Encoding, StoredArray, WeightFile, WeightWriter

__all__ = ["NcnnModel", "atomic_write", "default_bin_path", "open_model", "read_param", "write_model", "write_param"]

MAX_PARAM_FILE_BYTES = 64 * 1024 * 1024  # a million layers; more is not a model


@dataclass(frozen=True)
class NcnnModel:
    """A .param with its .bin; close it, or use it as a context manager."""

    model: Model
    weights: WeightFile
    param_path: Path
    bin_path: Path

    def close(self) -> None:
        """Closes the weight file; views of it stay valid until they are dropped."""
        self.weights.close()

    def __enter__(self) -> NcnnModel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def default_bin_path(param_path: str | PathLike[str]) -> Path:
    """Where the weights of a .param are expected: beside it, .param replaced by .bin."""
    path = Path(param_path)
    name = path.name
    for suffix in (".param.bin", ".param"):
        if name.endswith(suffix):
            return path.with_name(name[: -len(suffix)] + ".bin")
    return path.with_name(name + ".bin")


def read_param(path: str | PathLike[str]) -> Model:
    """Reads and checks a .param file, text or binary.

    Raises:
        ModelFormatError: no such file, not a .param, or anything wrong in it.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_PARAM_FILE_BYTES:
                raise ModelFormatError(f"larger than {MAX_PARAM_FILE_BYTES} bytes, which no .param is", path=path)
            data = file.read()
    except FileNotFoundError as error:
        raise ModelFormatError(f"cannot be read: {error.strerror}", path=path) from error
    return parse_param_binary(data, path=path) if is_binary(data) else parse_param(data, path=path)


def open_model(
    param_path: str | PathLike[str], bin_path: str | PathLike[str] | None = None, *, missing_bin_ok: bool = False
) -> NcnnModel:
    """Opens a model; its weights are indexed and checked but not read.

    Args:
        param_path: the .param.
        bin_path: the .bin; by default beside the .param.
        missing_bin_ok: open without weights when the .bin does not exist; viewing one is an error then.

    Raises:
        ModelFormatError: either file is missing or malformed.
        UnsupportedLayerError: a layer of unknown type, so that the .bin cannot be followed.
    """
    model = read_param(param_path)
    weights_path = Path(bin_path) if bin_path is not None else default_bin_path(param_path)
    try:
        weights = WeightFile.open(model, weights_path, missing_ok=missing_bin_ok)
    except ModelFormatError as error:
        if error.path is not None:
            raise
        # A layer's parameters are wrong: it knows its line, we know the file.
        problem = error.message.removeprefix(f"line {error.line}: ")
        raise ModelFormatError(problem, path=param_path, line=error.line, hint=error.hint) from error
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"{os.fspath(param_path)}: {error.message}", hint=error.hint) from error
    return NcnnModel(model, weights, Path(param_path), weights_path)


def write_model(
    model: Model,
    arrays: Iterable[StoredArray],
    param_path: str | PathLike[str],
    bin_path: str | PathLike[str],
    *,
    after_chunk: Callable[[], None] | None = None,
) -> None:
    """Writes a .param and its .bin, both or neither.

    Args:
        model: the layers; checked first.
        arrays: every weight array in .bin order; taken one at a time, so a generator streams.
        param_path: where the .param goes.
        bin_path: where the .bin goes.
        after_chunk: see `WeightWriter`.

    Raises:
        ModelFormatError: the model breaks an invariant.
        ValueError: the arrays are not the ones the model's layers call for.
        FlexnnError: a file cannot be written.
    """
    check_model(model)
    if Path(param_path).absolute() == Path(bin_path).absolute():
        raise FlexnnError(f"{param_path} cannot be both the .param and the .bin", hint="name two files")
    wanted = ((layer, spec) for layer in model.layers if layer.type in LAYERS for spec in array_specs(layer))
    with atomic_write(param_path) as param_file, atomic_write(bin_path) as bin_file:
        writer = WeightWriter(bin_file, after_chunk=after_chunk)
        given = iter(arrays)
        for layer, spec in wanted:
            array = next(given, None)
            if array is None or array.values.size != spec.count or not _fits(array.encoding, spec):
                raise ValueError(
                    f"layer {layer.name!r} needs {spec}, given {array and (array.values.shape, array.encoding)}"
                )
            writer.write_stored(array)
        if next(given, None) is not None:
            raise ValueError("more arrays than the model's layers call for")
        param_file.write(format_param(model).encode("utf-8", "surrogateescape"))
    settle(bin_path)


def _fits(encoding: Encoding, spec: ArraySpec) -> bool:
    if spec.tagged:
        return encoding.tag is not None and (spec.int8 or encoding is not Encoding.INT8)
    return encoding is (Encoding.INT8_UNTAGGED if spec.packed else Encoding.FP32_UNTAGGED)


def write_param(model: Model, path: str | PathLike[str]) -> None:
    """Writes a .param, replacing it as a whole."""
    with atomic_write(path) as file:
        file.write(format_param(model).encode("utf-8", "surrogateescape"))
