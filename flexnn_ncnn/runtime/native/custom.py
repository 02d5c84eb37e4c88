"""ncnn.Layer made by a user: called from Python where it is written in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ncnn

from flexnn_ncnn.runtime.native.layers import ParamScalar, make_params
from flexnn_ncnn.runtime.native.mats import Mat, NcnnError, Option

__all__ = ["CustomLayer"]


class CustomLayer:
    """One layer of a user's type, without weights.

    ncnn copies lists on their way to Python, so a layer written in Python is called directly; what it raises comes
    through.

    Args:
        name: for people.
        params: id and value.
        creator, destroyer: make an ncnn.Layer, and are told when it is not needed any more.
        option: to compute with.

    Raises:
        NcnnError: the layer refuses its parameters, or asks for weights.
    """

    def __init__(
        self,
        name: str,
        params: Sequence[tuple[int, ParamScalar]],
        creator: Callable[[], Any],
        destroyer: Callable[[Any], object],
        option: Option,
    ) -> None:
        self.name, self._destroyer, self._option = name, destroyer, option
        self._layer = creator()
        if not isinstance(self._layer, ncnn.Layer):
            raise NcnnError(f"layer {name!r}: its creator made no ncnn.Layer")
        self._check(self._layer.load_param(make_params(params)), "load_param")
        self._check(self._layer.load_model(_NoWeights()), "load_model", "custom layers have no weights under a budget")
        self._check(self._layer.create_pipeline(option), "create_pipeline")

    def forward(self, bottoms: list[Mat], count: int) -> tuple[int, list[Mat]]:
        """Compute.

        Args:
            bottoms: the inputs, unpacked float32.
            count: how many outputs there are.

        Returns:
            What the layer returned, 0 if all is well, and the outputs.
        """
        layer, option = self._layer, self._option
        single = bool(layer.one_blob_only)
        if layer.support_inplace:
            tops = [bottom.clone() for bottom in bottoms]
            given: Any = tops[0] if single else tops
            code = self._call("forward_inplace", (given, option), ("bottom_top_blob" + "s" * (not single), "opt"))
            return code, tops
        tops = [ncnn.Mat() for _ in range(count)]
        given = (bottoms[0], tops[0]) if single else (bottoms, tops)
        names = ("bottom_blob", "top_blob", "opt") if single else ("bottom_blobs", "top_blobs", "opt")
        return self._call("forward", (*given, option), names), tops

    def close(self) -> None:
        """Let go of the layer; closing twice is fine."""
        if self._layer is not None:
            layer, self._layer = self._layer, None
            layer.destroy_pipeline(self._option)
            self._destroyer(layer)

    def _call(self, method: str, values: tuple[Any, ...], names: tuple[str, ...]) -> int:
        call = getattr(self._layer, method)
        if getattr(type(self._layer), method) is getattr(ncnn.Layer, method):  # not Python: by keyword, as everywhere
            return int(call(**dict(zip(names, values, strict=True))) or 0)
        return int(call(*values) or 0)

    def _check(self, code: Any, call: str, hint: str = "") -> None:
        if code:
            raise NcnnError(f"layer {self.name!r}: its {call} returned {code}", hint=hint)


class _NoWeights(ncnn.ModelBin):  # type: ignore[misc]
    def load(self, w: int, type: int) -> Mat:
        return ncnn.Mat()
