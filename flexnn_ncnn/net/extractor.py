"""`Extractor`: one inference, fed and asked blob by blob, as ncnn.Extractor is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from flexnn_ncnn.errors import InputError, UsageError
from flexnn_ncnn.net.computing import Computed, Computing
from flexnn_ncnn.net.custom import LayerFailedError
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.runtime import native

__all__ = ["Extractor", "PlannedExtractor", "StockExtractor"]

_LOGGER = logging.getLogger("flexnn_ncnn")
_NO_BLOB, _FAILED = -1, -100  # what ncnn returns


class Extractor:
    """One inference; from `Net.create_extractor`, and a context manager.

    Return codes are ncnn's: 0, -1 for a blob that does not exist, -100 for one that could not be computed. What ncnn
    would crash on, or answer wrongly, is an exception.
    """

    def __init__(self) -> None:
        raise TypeError("flexnn_ncnn.Extractor: No constructor defined! Call Net.create_extractor")

    def input(self, blob_name: str | int, value: Any) -> int:
        """Feed a blob, an input or any other.

        Args:
            blob_name: its name or its index.
            value: an ncnn.Mat, or what numpy makes an array of, outermost dimension first and without a batch. It is
                read when a blob is extracted: leave it as it is until then.

        Returns:
            0, or -1 where there is no such blob.
        """
        raise NotImplementedError

    def extract(
        self, blob_name: str | int | None = None, feat: Any = None, type: int = 0, *, blob_index: int | None = None
    ) -> Any:
        """A blob's values, computed if they are not known yet: an output's or any other's.

        Args:
            blob_name: its name or its index.
            feat: an ncnn.Mat to be given the values; or `type`, as the second of two arguments.
            type: 0 for unpacked float32; anything else for the blob as it lies, packed and in 16 bits as it may be.
            blob_index: its index, instead of `blob_name`.

        Returns:
            (code, ncnn.Mat) without `feat`, else the code.

        Raises:
            BudgetError: no plan keeps the budget.
            FlexnnError: whatever `Session.run` raises.
        """
        if isinstance(feat, (int, np.integer)):
            feat, type = None, int(feat)
        blob = blob_index if blob_name is None else blob_name
        if blob is None or not (feat is None or native.is_mat(feat)):
            raise TypeError("extract(): give the name or the index of a blob, then a Mat or nothing, then the type")
        return self._extract(blob, feat, type)

    def clear(self) -> None:
        """Forget what was fed and computed; an extractor cannot be used after that, as with ncnn."""
        raise NotImplementedError

    def set_light_mode(self, enable: bool) -> None:
        """Whether blobs that no layer needs any more are let go of; under a budget their memory always is."""

    def set_blob_allocator(self, allocator: Any) -> None:
        """An ncnn.Allocator for blobs; under a budget for those extracted with another `type` than 0."""

    def set_workspace_allocator(self, allocator: Any) -> None:
        """An ncnn.Allocator for workspace; under a budget the plan says where workspace lies."""

    def set_kvcache_allocator(self, allocator: Any) -> None:
        """An ncnn.Allocator for caches of keys and values; not under a budget."""

    def set_kvcache_max_seqlen_hint(self, max_seqlen_hint: int) -> None:
        """How long a cache of keys and values will get; not needed under a budget."""

    def _extract(self, blob: str | int, feat: Any, type: int) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Extractor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.clear()


class StockExtractor(Extractor):
    """ncnn's own, which takes arrays too.

    Args:
        extractor: the ncnn.Extractor.
        to_mat: an ncnn.Mat of what is fed to a blob.
    """

    def __init__(self, extractor: Any, to_mat: Callable[[str | int, Any], native.Mat]) -> None:
        self._stock, self._to_mat = extractor, to_mat
        for name in vars(Extractor):
            if name.startswith("set_"):
                setattr(self, name, getattr(extractor, name))

    def input(self, blob_name: str | int, value: Any) -> int:
        """As `Extractor.input`."""
        return int(self._stock.input(blob_name, self._to_mat(blob_name, value)))

    def clear(self) -> None:
        """As `Extractor.clear`."""
        self._stock.clear()

    def _extract(self, blob: str | int, feat: Any, type: int) -> Any:
        return self._stock.extract(blob, type) if feat is None else self._stock.extract(blob, feat, type)


class PlannedExtractor(Extractor):
    """An inference under a budget.

    An output that was extracted stays what it was, whatever is fed later, as with ncnn: other data want another
    extractor. In light mode ncnn forgets a blob once a layer has read it.

    Args:
        computing: the loaded model; None where none is loaded.
        options: how to compute.
        light: whether blobs in the middle are forgotten.
    """

    def __init__(self, computing: Computing | None, options: RunOptions, light: bool) -> None:
        self._computing, self._options, self._light = computing, options, light
        self._fed: dict[str, Any] = {}
        self._computed: dict[str, Computed] = {}
        self._extracted: dict[str, Computed] = {}
        # blobs asked for since something was fed
        self._asked: list[str] = []
        self._allocator: Any = None

    def input(self, blob_name: str | int, value: Any) -> int:
        """As `Extractor.input`."""
        blob = self._find(blob_name, "input")
        if blob is None:
            return _NO_BLOB
        if native.is_mat(value):
            if value.n > 1:
                raise InputError(f"a batch of {value.n} is fed to blob {blob!r}", hint="feed one after the other")
            if value.empty():
                self._fed.pop(blob, None)
                return 0
        self._fed[blob] = value
        self._computed.clear()
        if self._light:
            assert self._computing is not None
            stays = {*self._computing.graph.output_names, *self._asked[-1:]}
            self._extracted = {name: one for name, one in self._extracted.items() if name in stays}
        self._asked.clear()
        return 0

    def clear(self) -> None:
        """As `Extractor.clear`."""
        self._computing = None
        for held in (self._fed, self._computed, self._extracted, self._asked):
            held.clear()

    def set_light_mode(self, enable: bool) -> None:
        """As `Extractor.set_light_mode`."""
        self._light = bool(enable)

    def set_blob_allocator(self, allocator: Any) -> None:
        """As `Extractor.set_blob_allocator`."""
        self._allocator = allocator

    def set_kvcache_allocator(self, allocator: Any) -> None:
        """As `Extractor.set_kvcache_allocator`."""
        if allocator is not None:
            raise UsageError(
                "a cache of keys and values cannot have an allocator of its own under a budget",
                hint="feed and extract it as a blob, or use Net(budget=None)",
            )

    def _extract(self, blob: str | int, feat: Any, type: int) -> Any:
        name = self._find(blob, "extract")
        found, code = None, _NO_BLOB
        if name is not None:
            try:
                found = self._value(name)
                code = _FAILED if found is None else 0
            except LayerFailedError as error:
                code = error.code
                _LOGGER.warning("extract(%r): %s", blob, error)
        mat = native.empty_mat() if found is None else self._as_type(found, type)
        if feat is None:
            return code, mat
        if not code:
            feat.clone_from(mat)
        return code

    def _find(self, blob: str | int, call: str) -> str | None:
        """The blob's name."""
        names = self._computing.graph.blobs if self._computing is not None else ()
        if isinstance(blob, str):
            if blob in names:
                return blob
        elif 0 <= blob < len(names):
            return names[blob]
        if self._computing is None:
            _LOGGER.warning("%s(%r): nothing is loaded, or the extractor was cleared", call, blob)
            return None
        graph = self._computing.graph
        likely = graph.input_names if call == "input" else graph.output_names
        _LOGGER.warning("%s(%r): no such blob; the network has %s", call, blob, ", ".join(likely))
        return None

    def _value(self, blob: str) -> Computed | None:
        if blob in self._extracted:
            return self._extracted[blob]
        if blob in self._fed:
            return self._given(blob)
        assert self._computing is not None
        if blob not in self._computed:
            if blob in self._computing.graph.input_names:
                return Computed(native.empty_mat(), None)
            made = self._computing.compute(self._options, self._fed, blob, self._asked)
            if made is None:
                fed = ", ".join(self._fed) or "nothing"
                _LOGGER.warning("extract(%r): what was fed, %s, does not suffice for it", blob, fed)
                return None
            self._computed = made
        self._asked.append(blob)
        self._extracted[blob] = self._computed.pop(blob)
        return self._extracted[blob]

    def _given(self, blob: str) -> Computed:
        value = self._fed[blob]
        mat = value if native.is_mat(value) else native.mat_of(np.asarray(value))
        return Computed.copied(mat, self._options.bf16)

    def _as_type(self, found: Computed, type: int) -> native.Mat:
        if found.layout is None or type == 0:
            return native.same_memory(found.mat)
        mat = found.mat
        if native.layout_of(mat) != found.layout:
            mat = native.relayout(mat, found.layout, self._options.bf16)
        return native.same_memory(mat) if self._allocator is None else native.copy_with(mat, self._allocator)
