"""Chooses the weight scales of the zoo's generated models and writes them, with sizes and hashes, to manifest.json.

For maintainers; whoever builds a model uses what is in the manifest. Each model
is run layer by layer on its sample input with the stock ncnn wheel, and each
weighted layer gets the power of two that brings its output nearest to RMS 1. A
layer that ends a residual branch gets less, or fifty branches would add up.

    python models/calibrate.py                  # all generated models
    python models/calibrate.py resnet152 --seed 7
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ncnn  # noqa: TID251
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.zoo.entry import GeneratedSource
from flexnn_ncnn.zoo.generated import ArrayRecipe, array_recipes, values, write_generated
from flexnn_ncnn.zoo.inputs import sample_input
from flexnn_ncnn.zoo.registry import parse_manifest
from param_tools.graph import Layer, Model
from param_tools.model_io import read_param

MODELS = Path(__file__).resolve().parent
MANIFEST = MODELS / "manifest.json"

BRANCH_RMS = 0.25
"""Of what a residual branch adds to its skip connection: 36 in a row grow the sum to 1.8."""

_FIXED_EXPONENTS = {"bias": -4, "beta": -4, "gamma": -4, "data": -2}
_MAX_ROUNDS = 4
_MANIFEST_COLUMNS = 110
_NUMBER_LIST = re.compile(r'^(?P<indent> *)(?P<key>"\w+"): \[\n(?P<numbers>[-+\d.e,\s]+)\]', re.MULTILINE)

Array = npt.NDArray[Any]


def main() -> None:
    """Calibrates the models named on the command line, or all generated ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, help="a new seed, for a model whose two best answers are too close")
    arguments = parser.parse_args()
    document = json.loads(MANIFEST.read_text(encoding="utf-8"))
    generated = [name for name, fields in document["models"].items() if fields["source"]["kind"] == "generated"]
    for name in arguments.names or generated:
        fields = document["models"][name]
        if arguments.seed is not None:
            fields["source"]["seed"] = arguments.seed
        calibrate(name, fields)
        MANIFEST.write_text(manifest_text(document), encoding="utf-8")


def calibrate(name: str, fields: dict[str, Any]) -> None:
    """Fills in what the manifest's entry says about scales, sizes and hashes."""
    param_path = MODELS / fields["graph"]
    model = read_param(param_path)
    known = parse_manifest(json.dumps({"format": "flexnn-ncnn zoo", "version": 1, "models": {name: fields}}))[name]
    assert isinstance(known.source, GeneratedSource)
    calibration = Calibration(model, param_path.read_text().splitlines(), known.source)
    calibration.run(sample_input(known))

    source = GeneratedSource(known.source.seed, tuple(calibration.exponents), known.source.causal_masks)
    sink = HashSink()
    write_generated(model, source, sink)
    fields["source"]["exponents"] = list(source.exponents)
    fields["param_sha256"] = hashlib.sha256(param_path.read_bytes()).hexdigest()
    fields["parameters"] = sum(recipe.count for recipe in calibration.recipes)
    fields["bin_bytes"], fields["bin_sha256"] = sink.size_bytes, sink.hash.hexdigest()
    answer = calibration.blobs[known.output].ravel()
    second, first = np.sort(answer)[-2:]
    print(
        f"{name}: blob RMS {calibration.smallest_rms:.2f}..{calibration.largest_rms:.2f}, "
        f"answer RMS {rms(answer):.2f}, top-1 {int(answer.argmax())} = {first:.4f}, next {second:.4f}"
    )


class HashSink:
    """Takes the bytes of a .bin and keeps their number and hash only."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Counts and hashes `data`."""
        self.hash.update(data)
        self.size_bytes += len(data)
        return len(data)


class Calibration:
    """One pass through a graph, a layer at a time, keeping the blobs that are still wanted."""

    def __init__(self, model: Model, lines: Sequence[str], source: GeneratedSource) -> None:
        self.model, self.lines, self.seed = model, lines, source.seed
        self.recipes = array_recipes(model, source.causal_masks)
        self.exponents = [first_exponent(recipe) for recipe in self.recipes]
        self.blobs: dict[str, Array] = {}
        self.smallest_rms, self.largest_rms = math.inf, 0.0

    def run(self, inputs: dict[str, Array]) -> None:
        """Feeds `inputs` through every layer and settles the exponents on the way."""
        by_layer: dict[int, list[ArrayRecipe]] = {}
        for recipe in self.recipes:
            by_layer.setdefault(recipe.layer_index, []).append(recipe)
        for index, layer in enumerate(self.model.layers):
            if layer.type == "Input":
                self.blobs.update({blob: inputs[blob] for blob in layer.outputs})
                continue
            self._settle(index, layer, by_layer.get(index, []))
            for blob in set(layer.inputs):
                if self.model.consumers[blob][-1] == index:
                    del self.blobs[blob]

    def _settle(self, index: int, layer: Layer, recipes: Sequence[ArrayRecipe]) -> None:
        # A layer with several weights (attention) is scaled by its last, the output projection.
        scalable = [recipe for recipe in recipes if is_weight(recipe)]
        target = BRANCH_RMS if ends_branch(self.model, index) else 1.0
        outputs = self._forward(layer, recipes)
        for _ in range(_MAX_ROUNDS if scalable else 0):
            stream, octaves = scalable[-1].stream, math.log2(target / rms(outputs[0]))
            self.exponents[stream] += round(octaves)
            tried = self._forward(layer, recipes) if round(octaves) else outputs
            # A bias can make each of two neighbours look better than the other.
            if abs(math.log2(target / rms(tried[0]))) >= abs(octaves):
                self.exponents[stream] -= round(octaves)
                break
            outputs = tried
        self.blobs.update(zip(layer.outputs, outputs, strict=True))
        if not any(recipe.fill == "causal_mask" for recipe in recipes) and layer.type != "Split":
            self.smallest_rms = min(self.smallest_rms, rms(outputs[0]))
            self.largest_rms = max(self.largest_rms, rms(outputs[0]))

    def _forward(self, layer: Layer, recipes: Sequence[ArrayRecipe]) -> list[Array]:
        heads = [f"Input {blob} 0 1 {blob}" for blob in dict.fromkeys(layer.inputs)]
        lines = [*heads, self.lines[layer.line - 1]]
        blob_count = len(heads) + len(layer.outputs)
        net = ncnn.Net()
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param_mem("\n".join(["7767517", f"{len(lines)} {blob_count}", *lines, ""])) != 0:
            raise RuntimeError(f"ncnn refuses the layer {layer.name}")
        net.load_model_mem(self._weights(recipes) or bytes(4))
        extractor = net.create_extractor()
        for blob in dict.fromkeys(layer.inputs):
            extractor.input(blob, ncnn.Mat(self.blobs[blob]).clone())
        outputs = []
        for blob in layer.outputs:
            status, mat = extractor.extract(blob)
            if status != 0:
                raise RuntimeError(f"ncnn cannot run the layer {layer.name}")
            outputs.append(np.array(mat))
        return outputs

    def _weights(self, recipes: Iterable[ArrayRecipe]) -> bytes:
        parts: list[bytes] = []
        for recipe in recipes:
            parts.append(bytes(4) if recipe.tagged else b"")
            parts += [chunk.tobytes() for chunk in values(recipe, self.seed, self.exponents[recipe.stream])]
        return b"".join(parts)


def is_weight(recipe: ArrayRecipe) -> bool:
    """Whether the array multiplies activations, so that its scale is the layer's scale."""
    return len(recipe.shape) >= 2 and recipe.name != "data"


def first_exponent(recipe: ArrayRecipe) -> int:
    """The guess that keeps the variance of random activations: 2**exponent near 1 / sqrt(inputs per output)."""
    if not is_weight(recipe):
        return _FIXED_EXPONENTS.get(recipe.name, _FIXED_EXPONENTS["bias"])
    return -round(math.log2(math.prod(recipe.shape[1:])) / 2)


def ends_branch(model: Model, index: int) -> bool:
    """Whether the layer's output is added to a blob that also went round it, through a Split."""
    layer = model.layers[index]
    if len(layer.outputs) != 1 or not (readers := model.consumers[layer.outputs[0]]):
        return False
    reader = model.layers[readers[0]]
    if reader.type != "BinaryOp" or len(reader.inputs) != 2:
        return False
    others = [blob for blob in reader.inputs if blob != layer.outputs[0]]
    return any(model.layers[model.producers[blob]].type == "Split" for blob in others)


def rms(blob: Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(blob, dtype=np.float64))))


def manifest_text(document: dict[str, Any]) -> str:
    """The manifest as JSON, its lists of numbers on as few lines as fit."""

    def pack(found: re.Match[str]) -> str:
        indent, key, numbers = found.group("indent"), found.group("key"), found.group("numbers").split()
        one_line = f"{indent}{key}: [{' '.join(numbers)}]"
        if len(one_line) <= _MANIFEST_COLUMNS:
            return one_line
        body = textwrap.fill(
            " ".join(numbers), _MANIFEST_COLUMNS, initial_indent=indent + "  ", subsequent_indent=indent + "  "
        )
        return f"{indent}{key}: [\n{body}\n{indent}]"

    return _NUMBER_LIST.sub(pack, json.dumps(document, indent=2, ensure_ascii=False)) + "\n"


if __name__ == "__main__":
    main()
