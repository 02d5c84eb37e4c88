"""Weights array by array in the order of the .bin: made from a seed, or somebody's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.zoo.entry import GeneratedSource
from flexnn_ncnn.zoo.hashing import ByteSink
from flexnn_ncnn.zoo.noise import noise_chunks
from param_tools.errors import FlexnnError
from param_tools.graph import Model
from param_tools.schema import array_specs

__all__ = ["MASKED", "ArrayRecipe", "array_recipes", "values", "write_arrays", "write_generated"]

MASKED = -32768.0
"""Added to an attention score that must not count; far below any score, and exact in fp16 too."""

_FP32_TAG = bytes(4)


@dataclass(frozen=True)
class ArrayRecipe:
    """How one array of the .bin is made.

    Attributes:
        stream: number of the array in the .bin, which is the number of its random stream.
        layer_index: the layer it belongs to.
        name: what the schema calls it.
        shape: its extents.
        tagged: whether a 4-byte storage tag goes before it.
        fill: "noise", "one" for noise around 1, or "causal_mask".
    """

    stream: int
    layer_index: int
    name: str
    shape: tuple[int, ...]
    tagged: bool
    fill: str

    @property
    def count(self) -> int:
        """Number of values."""
        return prod(self.shape)


def array_recipes(model: Model, causal_masks: tuple[str, ...] = ()) -> tuple[ArrayRecipe, ...]:
    """The recipes of all arrays of `model`, in .bin order.

    Args:
        model: the graph.
        causal_masks: names of MemoryData layers that hold a causal attention mask.
    """
    recipes: list[ArrayRecipe] = []
    for index, layer in enumerate(model.layers):
        for spec in array_specs(layer):
            fill = "one" if spec.name == "gamma" else "causal_mask" if layer.name in causal_masks else "noise"
            recipes.append(ArrayRecipe(len(recipes), index, spec.name, spec.shape(layer), spec.tagged, fill))
    return tuple(recipes)


def values(recipe: ArrayRecipe, seed: int, exponent: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yields an array's values in small pieces: `noise * 2**exponent`, plus 1 for "one"."""
    if recipe.fill == "causal_mask":
        yield _causal_mask(recipe.shape).ravel()
        return
    for chunk in noise_chunks(seed, recipe.stream, recipe.count, exponent):
        if recipe.fill == "one":
            chunk += np.float32(1)
        yield chunk


def write_generated(model: Model, source: GeneratedSource, out: ByteSink) -> None:
    """Writes the whole .bin of `model` to `out`, a few MiB at a time.

    Raises:
        FlexnnError: the manifest has not one exponent per array.
    """
    recipes = array_recipes(model, source.causal_masks)
    if len(recipes) != len(source.exponents):
        raise FlexnnError(f"the manifest has {len(source.exponents)} exponents for {len(recipes)} weight arrays")
    for recipe, exponent in zip(recipes, source.exponents, strict=True):
        if recipe.tagged:
            out.write(_FP32_TAG)
        for chunk in values(recipe, source.seed, exponent):
            out.write(chunk.data.cast("B"))


def write_arrays(model: Model, arrays: Iterable[npt.NDArray[np.float32]], out: ByteSink) -> None:
    """Writes trained weights as the .bin of `model`.

    Args:
        model: the graph.
        arrays: C-contiguous little-endian fp32, in .bin order, of the shapes the graph asks for.
        out: what to write to.

    Raises:
        FlexnnError: there are more or fewer arrays, or one has another shape.
    """
    recipes = array_recipes(model)
    given = list(arrays)
    if len(recipes) != len(given):
        raise FlexnnError(f"there are {len(given)} trained weight arrays, the graph asks for {len(recipes)}")
    for recipe, array in zip(recipes, given, strict=True):
        if array.shape != recipe.shape:
            layer = model.layers[recipe.layer_index]
            raise FlexnnError(f"the trained {recipe.name} of {layer.name} is {array.shape}, not {recipe.shape}")
        if recipe.tagged:
            out.write(_FP32_TAG)
        out.write(array.data.cast("B"))


def _causal_mask(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """0 where a query (row) may see a key (column), `MASKED` where the key comes later."""
    *_, rows, columns = shape
    later = np.arange(columns)[None, :] > np.arange(rows)[:, None]
    mask = np.where(later, np.float32(MASKED), np.float32(0)).astype("<f4")
    return np.ascontiguousarray(np.broadcast_to(mask, shape))
