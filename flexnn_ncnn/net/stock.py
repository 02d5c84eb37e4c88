"""A net without a budget: ncnn.Net itself, fed with arrays too."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from flexnn_ncnn.errors import InputError, PlanError, UsageError
from flexnn_ncnn.model_inputs import as_blob, input_specs
from flexnn_ncnn.net.extractor import Extractor, StockExtractor
from flexnn_ncnn.records.input_spec import InputSpec
from flexnn_ncnn.runtime import native
from flexnn_ncnn.sessions.session import Session
from param_tools.model_io import read_param

__all__ = ["StockModel"]


class StockModel:
    """Stock ncnn.

    Args:
        stock: an ncnn.Net.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._param_path: Path | None = None

    @property
    def session(self) -> Session:
        """There is none."""
        raise PlanError("a net without a budget has no plan", hint="give Net a budget")

    def load_param(self, source: Any, binary: bool) -> int:
        """See `Net.load_param`."""
        call = self._stock.load_param_bin if binary else self._stock.load_param
        if native.is_reader(source):
            self._param_path = None
            return int(call(source))
        self._param_path = Path(source)
        return int(call(os.fspath(source)))

    def load_param_mem(self, mem: str | bytes) -> int:
        """See `Net.load_param_mem`."""
        self._param_path = None
        return int(self._stock.load_param_mem(mem))

    def load_model(self, source: Any) -> int:
        """See `Net.load_model`."""
        return int(self._stock.load_model(source if native.is_reader(source) else os.fspath(source)))

    def load_model_mem(self, mem: bytes) -> Any:
        """See `Net.load_model_mem`."""
        return self._stock.load_model_mem(mem)

    def names(self, outputs: bool) -> list[str]:
        """Names of the outputs, or of the inputs."""
        return list(self._stock.output_names() if outputs else self._stock.input_names())

    def indexes(self, outputs: bool) -> list[int]:
        """Indices of the outputs, or of the inputs."""
        return list(self._stock.output_indexes() if outputs else self._stock.input_indexes())

    def with_graph(self) -> Any:
        """The ncnn.Net."""
        return self._stock

    def create_extractor(self) -> Extractor:
        """See `Net.create_extractor`."""
        return StockExtractor(self._stock.create_extractor(), self._to_mat)

    def set_budget(self, budget: str | int | None, wait: bool) -> Future[None]:
        """See `Net.set_budget`."""
        if budget is not None:
            raise UsageError("a net made without a budget is stock ncnn", hint="give Net a budget when it is made")
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def register_custom_layer(self, *arguments: Any) -> int:
        """See `Net.register_custom_layer`."""
        return int(self._stock.register_custom_layer(*arguments))

    def clear(self) -> None:
        """See `Net.clear`."""
        self._stock.clear()
        self._param_path = None

    def _to_mat(self, blob: str | int, value: Any) -> native.Mat:
        """What is fed, as a Mat of its own: ncnn counts references where a layer works in place."""
        if native.is_mat(value):
            return value
        return native.mat_of(as_blob(self._spec(blob, value), value))

    def _spec(self, blob: str | int, value: Any) -> InputSpec:
        name = blob if isinstance(blob, str) else f"blob {blob}"
        if np.asarray(value).dtype.kind not in "iu":
            return InputSpec(name, (), "float32")
        inputs: list[Any] = self.names(outputs=False) if isinstance(blob, str) else [*self.indexes(outputs=False)]
        if blob not in inputs or self._param_path is None:
            raise InputError(f"whether input {name!r} takes integers or real numbers is not known", hint="feed a Mat")
        return input_specs(read_param(self._param_path))[inputs.index(blob)]
