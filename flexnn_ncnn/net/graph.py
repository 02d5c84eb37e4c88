"""What a net needs to know of its network all the time, without the memory of its layers."""

from __future__ import annotations

from dataclasses import dataclass

from param_tools.graph import Model

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """The blobs of a network, numbered as ncnn numbers them.

    Attributes:
        blobs: names by index.
        inputs: indices of the blobs to feed.
        outputs: indices of the blobs that nobody reads.
    """

    blobs: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Graph:
        """The blobs of `model`: ncnn numbers them as the file mentions them (net.cpp, Net::load_param)."""
        blobs = tuple(dict.fromkeys(blob for layer in model.layers for blob in (*layer.inputs, *layer.outputs)))
        index = {blob: i for i, blob in enumerate(blobs)}
        outputs = sorted(index[blob] for blob in model.output_blobs)
        return cls(blobs, tuple(index[blob] for blob in model.input_blobs), tuple(outputs))

    @property
    def input_names(self) -> list[str]:
        """Names of the blobs to feed."""
        return [self.blobs[i] for i in self.inputs]

    @property
    def output_names(self) -> list[str]:
        """Names of the blobs that nobody reads."""
        return [self.blobs[i] for i in self.outputs]
