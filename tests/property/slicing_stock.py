"""Runs models in stock ncnn and compares a sliced one with the whole; for the slicing tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ncnn
import numpy as np
import numpy.typing as npt

from param_tools.graph import Model
from param_tools.model_io import open_model, write_model
from param_tools.param_text import parse_param
from param_tools.schema import ArraySpec, array_specs
from param_tools.shapes import BlobShape
from param_tools.slicing.cut import Cut, SlicedModel
from param_tools.slicing.rewrite import apply_cuts
from param_tools.slicing.write import write_sliced
from param_tools.weights import Encoding, StoredArray

Array = npt.NDArray[np.float32]


def option(threads: int = 1, *, packing: bool = True, fp16: bool = False, **others: bool) -> ncnn.Option:
    """Options that compute in float32, unless `fp16` lets InnerProduct keep its weights so."""
    opt = ncnn.Option()
    opt.num_threads = threads
    opt.use_packing_layout = packing
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
        setattr(opt, name, fp16)
    opt.use_bf16_storage = False
    for name, value in others.items():
        setattr(opt, name, value)
    return opt


def run(param_path: Path, inputs: Mapping[str, npt.NDArray[np.generic]], opt: ncnn.Option) -> dict[str, Array]:
    """All outputs of a model, as stock ncnn computes them from .param and .bin."""
    net = ncnn.Net()
    net.opt = opt
    assert net.load_param(str(param_path)) == 0, param_path.read_text()
    assert net.load_model(str(param_path.with_suffix(".bin"))) == 0
    outputs = list(net.output_names())
    found = {}
    with net.create_extractor() as extractor:
        held = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        for name, value in held.items():
            assert extractor.input(name, ncnn.Mat(value).clone()) == 0
        for name in outputs:
            status, mat = extractor.extract(name)
            assert status == 0, f"{name}: {status}"
            found[name] = np.array(mat, np.float32)
            del mat  # it lies in the net's pool
    net.clear()
    return found


def model_of(layers: Sequence[str]) -> Model:
    """A model from layer lines."""
    blobs = sum(int(line.split()[3]) for line in layers)
    return parse_param("\n".join(["7767517", f"{len(layers)} {blobs}", *layers]))


def random_array(spec: ArraySpec, seed: int, encoding: Encoding | None) -> StoredArray:
    """Seeded values for one weight array, small enough that sums stay near 1."""
    rng = np.random.default_rng(seed)
    fan_in = max(spec.count // spec.dims[0], 1)
    if spec.packed:
        return StoredArray(rng.integers(-128, 128, spec.dims).astype(np.int8), Encoding.INT8_UNTAGGED)
    if encoding is Encoding.INT8 and spec.tagged and spec.name not in ("c", "bias_c"):
        return StoredArray(rng.integers(-127, 128, spec.dims).astype(np.int8), Encoding.INT8)
    if "scale" in spec.name:
        return StoredArray(rng.uniform(20, 90, spec.dims).astype(np.float32), Encoding.FP32_UNTAGGED)
    values = (rng.standard_normal(spec.dims) / np.sqrt(fan_in)).astype(np.float32)
    if not spec.tagged:
        return StoredArray(np.abs(values) if spec.name == "variance" else values, Encoding.FP32_UNTAGGED)
    if encoding is Encoding.TABLE:
        table = np.sort(values.reshape(-1)[:256] if values.size >= 256 else rng.standard_normal(256)).astype(np.float32)
        return StoredArray(rng.integers(0, 256, spec.dims).astype(np.uint8), Encoding.TABLE, table)
    return StoredArray(values, encoding if encoding in (Encoding.FP16, Encoding.FP32_RAW) else Encoding.FP32)


def write_random(model: Model, param_path: Path, encoding: Encoding | None = None) -> None:
    """Writes `model` with seeded weights, the tagged ones in `encoding`."""
    specs = [spec for layer in model.layers for spec in array_specs(layer)]
    write_model(
        model,
        (random_array(spec, i, encoding) for i, spec in enumerate(specs)),
        param_path,
        param_path.with_suffix(".bin"),
    )


def blob(shape: BlobShape, seed: int = 0) -> Array:
    """Seeded values of a shape."""
    return np.random.default_rng(seed).standard_normal(shape.numpy_shape).astype(np.float32)


def slice_file(
    param_path: Path, sliced_path: Path, cuts: Sequence[Cut], shapes: Mapping[str, BlobShape] | None = None
) -> SlicedModel:
    """Cuts the model at `param_path` and writes the result beside it."""
    with open_model(param_path) as original:
        sliced = apply_cuts(original.model, cuts, shapes)
        write_sliced(original, sliced, sliced_path, sliced_path.with_suffix(".bin"))
    return sliced


def whole_and_sliced(
    layers: Sequence[str],
    inputs: Mapping[str, npt.NDArray[np.generic]],
    cuts: Sequence[Cut],
    opt: ncnn.Option,
    shapes: Mapping[str, BlobShape] | None = None,
    encoding: Encoding | None = None,
) -> tuple[Array, Array, SlicedModel]:
    """The one output of a small model and of the model sliced, both through files and stock ncnn."""
    with tempfile.TemporaryDirectory() as folder:
        param_path, sliced_path = Path(folder, "whole.param"), Path(folder, "sliced.param")
        write_random(model_of(layers), param_path, encoding)
        sliced = slice_file(param_path, sliced_path, cuts, shapes)
        (whole,) = run(param_path, inputs, opt).values()
        (parts,) = run(sliced_path, inputs, opt).values()
    return whole, parts, sliced
