"""Layers of a plan made from their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.records.plan import Part, Plan, Stage, Step
from flexnn_ncnn.runtime import native

__all__ = ["Maker", "Makers"]

Maker = Callable[[list[npt.NDArray[Any]]], native.LoadedLayer]
"""Makes a layer from the arrays of its part."""


class Makers:
    """How a plan's layers are made.

    Args:
        plan: the plan.
        lets_others_run: whether other threads run while layers load and compute, as in `native.LoadedLayer`.

    Attributes:
        options: one per kernel to load with; a layer only reads it.
    """

    def __init__(self, plan: Plan, lets_others_run: bool = False) -> None:
        self._lets_others_run = lets_others_run
        kernels = {"default", *(step.kernel for step in plan.steps)}
        kernels |= {stage.kernel for step in plan.steps for stage in step.stages}
        self.options = {kernel: native.make_option(plan.options, kernel) for kernel in kernels}
        self._params: dict[str, native.ParamDict] = {}
        self._makers: dict[tuple[int, int, int, int], Maker] = {}
        # one more to load transformed weights with, which a load changes
        self._transformed_options = {kernel: native.make_option(plan.options, kernel) for kernel in kernels}

    def of(self, owner: Step | Stage, part: Part, run_option: native.Option | None = None) -> Maker:
        """A function that makes the layer of a part: the same one for parts that are alike.

        Args:
            owner: whose part.
            part: its parameters.
            run_option: to compute with; by default as it is loaded.
        """
        params = self._shared_params(part)
        # all of these live as long as the maker, so that no other has such a number
        key = id(owner), id(params), part.transformed_count, id(run_option)
        if key not in self._makers:
            self._makers[key] = self._maker(owner, params, part.transformed_count, run_option)
        return self._makers[key]

    def _maker(
        self,
        owner: Step | Stage,
        params: native.ParamDict,
        transformed_count: int,
        run_option: native.Option | None,
    ) -> Maker:
        option = self.options[owner.kernel]
        if transformed_count:
            apart = self._transformed_options[owner.kernel]

            def take(arrays: list[npt.NDArray[Any]]) -> native.LoadedLayer:
                image, *rest = arrays
                return native.TransformedLayer(
                    owner.type, params, image, transformed_count, rest, apart, owner.name, run_option
                )

            return take

        def make(arrays: list[npt.NDArray[Any]]) -> native.LoadedLayer:
            loaded = native.LoadedLayer(
                owner.type, params, arrays, option, owner.name, run_option, lets_others_run=self._lets_others_run
            )
            if not owner.reads_raw:
                loaded.release_raw()
            return loaded

        return make

    def _shared_params(self, part: Part) -> native.ParamDict:
        """The part's parameters: 4 KB each, and most slices have those of their neighbours."""
        text = repr(part.params)  # 1 and 1.0 are equal, and not the same to ncnn
        if text not in self._params:
            self._params[text] = native.make_params(part.params)
        return self._params[text]
