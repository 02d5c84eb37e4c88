"""The blobs that are alive while a network is computed layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from flexnn_ncnn.errors import InputError
from flexnn_ncnn.profiling.bench import Bench
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.memory.blob_memory import Blob
from param_tools.graph import Layer, Model

__all__ = ["LiveBlobs"]


class LiveBlobs:
    """Blobs by name, each until the last layer that reads it was passed.

    Args:
        model: the network.
        inputs: an array per input blob, borrowed.
        bench: what measurements share.

    Raises:
        InputError: an input is missing.
    """

    def __init__(self, model: Model, inputs: Mapping[str, npt.NDArray[Any]], bench: Bench) -> None:
        self._option, self._pool = bench.option("default"), bench.pool
        self._inputs = inputs  # the Mats borrow their memory
        self._mats: dict[str, native.Mat] = {}
        self._owners: dict[str, Any] = {}
        self._readers = {blob: len(readers) for blob, readers in model.consumers.items()}
        for blob in model.input_blobs:
            if blob not in inputs:
                raise InputError(f"no input is given for blob {blob!r}")
            self._mats[blob] = native.mat_from_array(inputs[blob])

    def __getitem__(self, name: str) -> native.Mat:
        return self._mats[name]

    def layout(self, name: str) -> BlobLayout:
        """How a blob lies in memory."""
        return native.layout_of(self._mats[name])

    def owner(self, name: str) -> Any:
        """What keeps a blob's memory alive."""
        return self._owners.get(name)

    def put(self, name: str, mat: native.Mat, owner: Any) -> None:
        """Add a blob, and what keeps its memory alive."""
        self._mats[name], self._owners[name] = mat, owner

    def wanted(self, name: str, layout: BlobLayout) -> tuple[native.Mat, Any]:
        """A blob in the layout a layer wants it in, and what keeps its memory alive."""
        mat = self._mats[name]
        if layout == native.layout_of(mat):
            return mat, self._owners.get(name)
        copy = self._pool.blob(layout)
        native.convert(mat, copy.mat, self._option)
        return copy.mat, copy

    def to_overwrite(
        self, layer: Layer, wanted: tuple[native.Mat, Any], allocator: native.ScratchAllocator | None
    ) -> Blob:
        """A layer's first input for it to overwrite: itself if nobody reads it afterwards, else a copy of it.

        Args:
            layer: who reads it.
            wanted: what `wanted` gave for it.
            allocator: what the layer allocates from.
        """
        mat, owner = wanted
        sharing = sum(other is owner for other in self._owners.values())
        if (
            isinstance(owner, Blob)
            and owner.allocator is allocator
            and self._readers[layer.inputs[0]] == 1
            and sharing < 2
        ):
            return owner
        copy = self._pool.blob(native.layout_of(mat), allocator)
        native.copy_blob(mat, copy.mat)
        return copy

    def passed(self, layer: Layer) -> None:
        """Let go of the blobs that this layer was the last to read."""
        for blob in layer.inputs:
            self._readers[blob] -= 1
            if not self._readers[blob]:
                self._mats.pop(blob)
                self._owners.pop(blob, None)
