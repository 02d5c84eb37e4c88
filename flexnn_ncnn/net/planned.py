"""A net under a budget: what ncnn.Net does with files and names, with plans behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from flexnn_ncnn.errors import FlexnnError, PlanError, UsageError
from flexnn_ncnn.net.computing import Computing
from flexnn_ncnn.net.custom import CustomLayers
from flexnn_ncnn.net.extractor import Extractor, PlannedExtractor
from flexnn_ncnn.net.graph import Graph
from flexnn_ncnn.net.model_files import ReadBytes, SpoolFolder
from flexnn_ncnn.preparing.preparation import Progress
from flexnn_ncnn.runtime import native
from flexnn_ncnn.sessions.session import Session
from flexnn_ncnn.units import parse_size
from param_tools.errors import ModelFormatError
from param_tools.files import open_regular
from param_tools.graph import Model
from param_tools.model_io import open_model, read_param
from param_tools.param_binary import is_binary
from param_tools.param_text import format_param, parse_param

__all__ = ["PlannedModel"]

_LOGGER = logging.getLogger("flexnn_ncnn")
_FAILED = -1  # what ncnn returns


class PlannedModel:
    """A model run within a budget.

    Args:
        stock: an ncnn.Net, whose options hold, and which tells about layers when it is asked.
        budget: bytes, or as `Session.set_budget` takes it.
        cache_dir: see `Net`.
        progress: see `Net`.
        page_cache: see `Net`.
    """

    def __init__(
        self,
        stock: Any,
        budget: str | int,
        cache_dir: Path | None,
        progress: Progress | None,
        page_cache: str = "mmap",
    ) -> None:
        self._stock, self._cache_dir, self._progress = stock, cache_dir, progress
        self._page_cache = page_cache
        self._budget_bytes = _in_bytes(budget)
        self._spool = SpoolFolder(cache_dir)
        self._registry: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {}
        self._param_path: Path | None = None  # the layers as they were given, by name
        self._computing: Computing | None = None

    @property
    def session(self) -> Session:
        """The session of the last inference."""
        if self._computing is None:
            raise PlanError("the net has no plan yet", hint="load a model and extract a blob first")
        return self._computing.session

    def load_param(self, source: Any, binary: bool) -> int:
        """See `Net.load_param`."""
        if native.is_reader(source):
            raise UsageError(
                "under a budget the .param cannot come from a DataReader, which can be read by ncnn alone",
                hint="give its path, or its text to load_param_mem",
            )
        path = Path(source)
        if not path.is_file():
            return _failed(ModelFormatError("there is no such file", path=path))  # what is loaded stays, as with ncnn
        self.clear()
        try:
            with open_regular(path) as file:
                if is_binary(file.read(4)) != binary:
                    raise ModelFormatError(f"is {'not ' if binary else ''}a binary .param", path=path)
            model = read_param(path)
            self._begin(model, None if binary else path)
        except FlexnnError as error:
            return _failed(error)
        return 0

    def load_param_mem(self, mem: str | bytes) -> int:
        """See `Net.load_param_mem`."""
        self.clear()
        data = mem.encode("utf-8", "surrogateescape") if isinstance(mem, str) else bytes(mem)
        try:
            self._begin(parse_param(data), None)
        except FlexnnError as error:
            return _failed(error)
        return 0

    def load_model(self, source: Any) -> int:
        """See `Net.load_model`."""
        if native.is_reader(source):
            return self._load_copy(lambda size_bytes: native.read_from(source, size_bytes))
        return self._load(Path(source))

    def load_model_mem(self, mem: bytes) -> int:
        """See `Net.load_model_mem`."""
        rest = memoryview(mem).cast("B")

        def read(size_bytes: int) -> memoryview:
            nonlocal rest
            taken, rest = rest[:size_bytes], rest[size_bytes:]
            return taken

        return self._load_copy(read)

    def names(self, outputs: bool) -> list[str]:
        """Names of the outputs, or of the inputs."""
        graph = self._graph
        return graph.output_names if outputs else graph.input_names

    def indexes(self, outputs: bool) -> list[int]:
        """Indices of the outputs, or of the inputs."""
        return list(self._graph.outputs if outputs else self._graph.inputs)

    def with_graph(self) -> Any:
        """The ncnn.Net, which knows layers and blobs, but no weights."""
        if self._param_path is not None and not self._stock.blobs():
            self._stock.load_param(str(self._param_path))
        return self._stock

    def create_extractor(self) -> Extractor:
        """See `Net.create_extractor`."""
        return PlannedExtractor(self._computing, native.options_of(self._stock.opt), bool(self._stock.opt.lightmode))

    def set_budget(self, budget: str | int | None, wait: bool) -> Future[None]:
        """See `Net.set_budget`."""
        if budget is None:
            raise UsageError("a net that has a budget cannot become stock ncnn", hint="make another Net")
        budget_bytes = _in_bytes(budget)
        if self._computing is None:
            self._budget_bytes = budget_bytes
            done: Future[None] = Future()
            done.set_result(None)
            return done
        return self._computing.set_budget(budget, budget_bytes, wait)

    def register_custom_layer(
        self, kind: str | int, creator: Callable[[], Any], destroyer: Callable[[Any], object]
    ) -> int:
        """See `Net.register_custom_layer`."""
        if not isinstance(kind, str) or native.is_layer_type(kind):
            raise UsageError(
                f"under a budget a custom layer has a name that ncnn has no layer of, not {kind!r}",
                hint="use Net(budget=None), which is stock ncnn",
            )
        self._registry[kind] = creator, destroyer
        return int(self._stock.register_custom_layer(kind, creator, destroyer))

    def clear(self) -> None:
        """See `Net.clear`."""
        if self._computing is not None:
            self._budget_bytes = self._computing.budget_bytes
            self._computing.close()
            self._computing = self._param_path = None
        self._stock.clear()
        self._spool.close()

    @property
    def _graph(self) -> Graph:
        return self._computing.graph if self._computing is not None else Graph()

    def _begin(self, model: Model, path: Path | None) -> None:
        """Take a model, from a .param with names or from elsewhere: stock ncnn is asked by name."""
        custom = CustomLayers.of(model, self._registry, self._stock.opt)
        self._param_path = planned = path or self._spool.write_param(format_param(model), "given.param")
        if custom.layers:
            planned = self._spool.write_param(format_param(custom.model), "planned.param")
        self._computing = Computing(
            planned,
            Graph.of(model),
            self._budget_bytes,
            self._cache_dir,
            self._progress,
            custom,
            page_cache=self._page_cache,
        )

    def _load(self, path: Path) -> int:
        if self._computing is None:
            return _failed(UsageError("load_model comes after load_param"))
        self._computing.unload()
        try:
            open_model(self._computing.param_path, path).close()
        except FlexnnError as error:
            return _failed(error)
        self._computing.bin_path = path
        return 0

    def _load_copy(self, read: ReadBytes) -> int:
        if self._computing is None:
            return _failed(UsageError("load_model comes after load_param"))
        self._computing.unload()
        try:
            path = self._spool.write_bin(read_param(self._computing.param_path), read)
        except FlexnnError as error:
            return _failed(error)
        return self._load(path)


def _in_bytes(budget: str | int) -> int:
    return 0 if budget == "auto" else parse_size(budget)


def _failed(error: FlexnnError) -> int:
    """What ncnn returns, with the sentence where ncnn prints one."""
    _LOGGER.warning("%s", error)
    return _FAILED
