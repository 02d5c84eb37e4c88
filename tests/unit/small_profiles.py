"""A profile small enough to reckon with by hand: a convolution, a pooling and a fully connected layer."""

from __future__ import annotations

import pytest

from flexnn_ncnn.planning import choices
from flexnn_ncnn.planning.planner import Workload, workload
from flexnn_ncnn.records.capabilities import STOCK, Capabilities
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear, ModelProfile, Points

__all__ = ["BASE_BYTES", "small_profile", "small_workload"]

BASE_BYTES = 1_000


def kernel(
    name: str, *, load: float, compute: float, kept: int, workspace: int, reads_raw: bool = False, per_unit: float = 1.0
) -> KernelCost:
    """Costs of 10 units: `kept` and times are proportional to the units, `workspace` is not."""
    return KernelCost(
        kernel=name,
        reads_raw=reads_raw,
        load_seconds=Linear(0.0, load / 10),
        compute_seconds=Linear(0.0, compute / 10 * per_unit),
        kept_bytes=Linear(0.0, kept / 10),
        load_peak_bytes=Linear(0.0, kept / 10),
        seconds_spread=0.0,
        run_peak_bytes=Points((10,), (float(workspace),)),
        run_heap_bytes=Linear(0.0, 0.0),
        events=(workspace, -workspace) if workspace else (),
        slabs=None,
    )


def layer(index: int, kind: str, blobs: tuple[int, int], raw_bytes: int, *kernels: KernelCost) -> LayerProfile:
    """A layer that reads the blob "b{index - 1}" and writes "b{index}", of so many bytes each."""
    taken, given = (BlobLayout(1, size // 4, 1, 1, 1, 4, 1) for size in blobs)
    units = 10 if raw_bytes else 1
    return LayerProfile(
        index=index,
        type=kind,
        name=f"{kind.lower()}{index}",
        mode="forward",
        inputs=(f"b{index - 1}",),
        outputs=(f"b{index}",),
        input_layouts=(taken,),
        output_layouts=(given,),
        raw_bytes=raw_bytes,
        units=units,
        granularity=1,
        least_units=1,
        blob_axis="w" if raw_bytes else "",
        window=None,
        convert_seconds=0.0,
        kernels=kernels,
    )


def small_profile() -> ModelProfile:
    """Stock ncnn keeps 41 kB of weights; streamed and with the small kernel it is much less."""
    big = kernel("default", load=0.002, compute=0.010, kept=40_000, workspace=2_000)
    small = kernel("sgemm", load=0.001, compute=0.014, kept=10_000, workspace=1_000)
    pool = kernel("default", load=0.0, compute=0.010, kept=0, workspace=0)
    fc = kernel("default", load=0.0, compute=0.003, kept=0, workspace=0, reads_raw=True)
    layers = (
        layer(1, "Convolution", (4_000, 8_000), 10_000, big, small),
        layer(2, "Pooling", (8_000, 2_000), 0, pool),
        layer(3, "InnerProduct", (2_000, 400), 1_000, fc),
    )
    return ModelProfile(
        model_id="small",
        machine="nowhere",
        machine_facts=None,
        options=RunOptions(),
        inputs=(("b0", layers[0].input_layouts[0]),),
        outputs=("b3",),
        layers=layers,
        read_seconds_per_byte=1e-7,
        storage=None,
        base_bytes=0,
    )


def small_workload(capabilities: Capabilities = STOCK) -> Workload:
    """Its workload, slices called for nothing: what a few take is more than all its weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choices, "CALL_BYTES", 0)
        return workload(small_profile(), capabilities)
