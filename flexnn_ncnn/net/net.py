"""`Net`: ncnn.Net with a budget."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.net.extractor import Extractor
from flexnn_ncnn.net.planned import PlannedModel
from flexnn_ncnn.net.stock import StockModel
from flexnn_ncnn.preparing.preparation import Progress
from flexnn_ncnn.records.plan import Plan
from flexnn_ncnn.records.storage import checked_page_cache
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.trace import Trace

__all__ = ["Net"]

_Path = str | os.PathLike[str]


class Net:
    """A network as ncnn.Net is one, run within a budget; docs/net.md says what is the same and what differs.

    Slicing, profile and plan are made at the first inference with inputs of some shapes, and found in the cache folder
    from then on. Threads may share it: inferences are made one at a time. Close it with `clear`, or use it as a context
    manager.

    Args:
        budget: bytes that inference may hold beyond the idle process, such as 100_000_000, "100MB" or "64MiB"; "auto"
            for what the system's memory allows at each moment; None for stock ncnn.
        page_cache: "mmap" or "direct", as of `open_session`; nothing to stock ncnn.
        cache_dir: where plans are kept, by default the platform's cache folder.
        progress: called with (what, done, of) while a plan is made.

    Raises:
        SizeError: the budget is no size.
        UsageError: there is no such page cache.
    """

    def __init__(
        self,
        budget: str | int | None = None,
        *,
        page_cache: str = "mmap",
        cache_dir: _Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._stock = native.plain_net()
        folder = None if cache_dir is None else Path(cache_dir)
        self._model: StockModel | PlannedModel = StockModel(self._stock)
        if budget is not None:
            self._model = PlannedModel(self._stock, budget, folder, progress, checked_page_cache(page_cache))

    @property
    def opt(self) -> Any:
        """The ncnn.Option to compute with; set it before a model is loaded."""
        return self._stock.opt

    @opt.setter
    def opt(self, option: Any) -> None:
        self._stock.opt = option

    @property
    def plan(self) -> Plan:
        """What was done in the last inference.

        Raises:
            PlanError: there was none.
        """
        return self._model.session.plan

    @property
    def trace(self) -> Trace:
        """How the last inference went.

        Raises:
            PlanError: there was none.
        """
        return self._model.session.trace

    def set_budget(self, budget: str | int | None, *, wait: bool = True) -> Future[None]:
        """Change to another budget, from any thread; an inference that is going on ends as it began.

        Args:
            budget: as for the class.
            wait: return when the budget is in force.

        Returns:
            Done once the budget is in force.

        Raises:
            SizeError: the budget is no size.
            BudgetError: it cannot work; the budget before it stays in force.
            UsageError: from stock ncnn to a budget, or back.
        """
        return self._model.set_budget(budget, wait)

    def load_param(self, protopath: Any = None, *, dr: Any = None) -> int:
        """Load the layers.

        Args:
            protopath: path of a .param.
            dr: an ncnn.DataReader; without a budget only.

        Returns:
            0, or -1 for a file that is missing, damaged, or has layers that ncnn has not.
        """
        return self._model.load_param(_either(protopath, dr), binary=False)

    def load_param_bin(self, protopath: Any = None, *, dr: Any = None) -> int:
        """Load the layers from a binary .param; arguments and result as `load_param`."""
        return self._model.load_param(_either(protopath, dr), binary=True)

    def load_param_mem(self, mem: str | bytes) -> int:
        """Load the layers from the text of a .param; result as `load_param`."""
        return self._model.load_param_mem(mem)

    def load_model(self, modelpath: Any = None, *, dr: Any = None) -> int:
        """Load the weights; under a budget only look whether they fit the layers, and stream them later.

        Args:
            modelpath: path of a .bin. Under a budget it is read at every inference: leave it as it is.
            dr: an ncnn.DataReader; under a budget the weights are copied to a file in the cache folder.

        Returns:
            0, or -1 for a file that is missing, or does not fit the layers.
        """
        return self._model.load_model(_either(modelpath, dr))

    def load_model_mem(self, mem: bytes) -> int | None:
        """Load the weights from memory; under a budget they are copied to a file in the cache folder.

        Returns:
            None with the stock wheel, which does not tell; 0, or -1 for weights that do not fit, with a patched one.
        """
        code = self._model.load_model_mem(mem)
        return code if native.capabilities().loads_zero_copy else None

    def input_names(self) -> list[str]:
        """Names of the blobs to feed."""
        return self._model.names(outputs=False)

    def output_names(self) -> list[str]:
        """Names of the blobs that no layer reads."""
        return self._model.names(outputs=True)

    def input_indexes(self) -> list[int]:
        """Indices of the blobs to feed."""
        return self._model.indexes(outputs=False)

    def output_indexes(self) -> list[int]:
        """Indices of the blobs that no layer reads."""
        return self._model.indexes(outputs=True)

    def blobs(self) -> list[Any]:
        """Every blob, as an ncnn.Blob."""
        return list(self._model.with_graph().blobs())

    def layers(self) -> list[Any]:
        """Every layer, as an ncnn.Layer; under a budget without weights."""
        return list(self._model.with_graph().layers())

    def create_extractor(self) -> Extractor:
        """What feeds blobs and extracts others, for one inference.

        Raises:
            UsageError: `opt` asks for what cannot be had under a budget.
        """
        return self._model.create_extractor()

    def register_custom_layer(
        self, type: str | int, creator: Callable[[], Any], destroyer: Callable[[Any], None]
    ) -> int:
        """Have layers of a type of your own; call it before `load_param`.

        Under a budget they have no weights, what they allocate comes on top of it, and what they raise comes out of
        `extract`.

        Raises:
            UsageError: under a budget, a type that is a number, or that ncnn has already.
        """
        return self._model.register_custom_layer(type, creator, destroyer)

    def set_vulkan_device(self, device: Any) -> None:
        """Choose a GPU; without a budget only.

        Raises:
            UsageError: there is a budget.
        """
        if isinstance(self._model, PlannedModel):
            raise UsageError("a budget is about main memory, and no GPU is used under one", hint="use Net(budget=None)")
        self._stock.set_vulkan_device(device)

    def vulkan_device(self) -> Any:
        """The chosen GPU, or None."""
        return self._stock.vulkan_device() if hasattr(self._stock, "vulkan_device") else None

    def clear(self) -> None:
        """Let go of the model; another one can be loaded."""
        self._model.clear()

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()


def _either(path: Any, reader: Any) -> Any:
    if (path is None) == (reader is None):
        raise TypeError("give a path or an ncnn.DataReader")
    return reader if path is None else path
