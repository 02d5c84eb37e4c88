"""A profile in figures for people: totals, and what each way to compute each layer costs as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flexnn_ncnn.records.machine import Machine
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, ModelProfile, StorageProfile

__all__ = ["KernelSummary", "LayerSummary", "ProfileSummary", "summarise_profile"]


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """One way to compute a whole layer.

    Attributes:
        kernel: a name in `flexnn_ncnn.records.options.KERNELS`.
        transform_seconds: making of the raw weights what the kernel wants.
        compute_seconds: the forward call.
        spread: how far samples of the two lie apart: the distance of their quartiles over their median.
        kept_bytes: weights held while the layer is loaded, raw ones included where the kernel uses them.
        workspace_bytes: most memory in use while computing, beside blobs and weights.
    """

    kernel: str
    transform_seconds: float
    compute_seconds: float
    spread: float
    kept_bytes: int
    workspace_bytes: int


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer.

    Attributes:
        index: its index in the model file.
        name: for people.
        type: ncnn's layer type.
        weights_bytes: as they lie in the file.
        read_seconds: reading them from the page cache.
        kernels: the ways to compute it, ncnn's own choice first; none where no layer runs.
    """

    index: int
    name: str
    type: str
    weights_bytes: int
    read_seconds: float
    kernels: tuple[KernelSummary, ...]

    @property
    def seconds(self) -> float:
        """Reading, transforming and computing with ncnn's own choice of kernel."""
        own = self.kernels[:1]
        return self.read_seconds + sum(one.transform_seconds + one.compute_seconds for one in own)


@dataclass(frozen=True, slots=True)
class ProfileSummary:
    """A whole profile; times are of ncnn's own choice of kernels.

    Attributes:
        model_id: identity of the .param/.bin pair.
        machine: fingerprint of the machine.
        machine_facts: the machine, where it is known.
        threads: compute threads.
        layers: in execution order.
        weights_bytes: as they lie in the file.
        read_bytes_per_second: mapping weights that are in the page cache; 0 where there are none to read.
        storage: reading the model's own file, where that was measured.
        read_seconds, transform_seconds, compute_seconds: of all layers.
        spread: of layers' samples, each layer counting for its time.
        base_bytes: code pages and Python objects.
        peak_bytes: what measuring held at most.
        bound_bytes: what it was allowed to hold, where that made it cut layers finer; else 0.
    """

    model_id: str
    machine: str
    machine_facts: Machine | None
    threads: int
    layers: tuple[LayerSummary, ...]
    weights_bytes: int
    read_bytes_per_second: float
    storage: StorageProfile | None
    read_seconds: float
    transform_seconds: float
    compute_seconds: float
    spread: float
    base_bytes: int
    peak_bytes: int
    bound_bytes: int

    def dearest(self, count: int) -> tuple[LayerSummary, ...]:
        """The layers that take longest to load and compute, longest first."""
        return tuple(sorted(self.layers, key=lambda layer: -layer.seconds)[:count])


def summarise_profile(profile: ModelProfile) -> ProfileSummary:
    """The figures of a profile."""
    layers = tuple(_layer(layer, profile.read_seconds_per_byte) for layer in profile.layers)
    own = [layer.kernels[0] for layer in layers if layer.kernels]
    rate = profile.read_seconds_per_byte
    return ProfileSummary(
        model_id=profile.model_id,
        machine=profile.machine,
        machine_facts=profile.machine_facts,
        threads=profile.options.num_threads,
        layers=layers,
        weights_bytes=sum(layer.weights_bytes for layer in layers),
        read_bytes_per_second=1 / rate if rate > 0 else 0.0,
        storage=profile.storage,
        read_seconds=sum(layer.read_seconds for layer in layers),
        transform_seconds=sum(one.transform_seconds for one in own),
        compute_seconds=sum(one.compute_seconds for one in own),
        spread=_spread(own),
        base_bytes=profile.base_bytes,
        peak_bytes=profile.peak_bytes,
        bound_bytes=profile.bound_bytes,
    )


def _spread(own: Sequence[KernelSummary]) -> float:
    seconds = [one.transform_seconds + one.compute_seconds for one in own]
    return sum(one.spread * time for one, time in zip(own, seconds, strict=True)) / max(1e-12, sum(seconds))


def _layer(layer: LayerProfile, read_seconds_per_byte: float) -> LayerSummary:
    return LayerSummary(
        index=layer.index,
        name=layer.name,
        type=layer.type,
        weights_bytes=layer.raw_bytes,
        read_seconds=layer.raw_bytes * read_seconds_per_byte,
        kernels=tuple(_kernel(layer, cost) for cost in layer.kernels),
    )


def _kernel(layer: LayerProfile, cost: KernelCost) -> KernelSummary:
    return KernelSummary(
        kernel=cost.kernel,
        transform_seconds=cost.load_seconds.at(layer.units),
        compute_seconds=cost.compute_seconds.at(layer.units),
        spread=cost.seconds_spread,
        kept_bytes=round(cost.kept_bytes.at(layer.units)) + (layer.raw_bytes if cost.reads_raw else 0),
        workspace_bytes=round(cost.run_peak_bytes.at(layer.units) + cost.run_heap_bytes.at(layer.units)),
    )
