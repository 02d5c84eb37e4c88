"""Made-up profiles for the planner's tests: costs that one can reckon with by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flexnn_ncnn.planning.choices import Choice
from flexnn_ncnn.planning.problem import Buffer
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.profile import KernelCost, LayerProfile, Linear, ModelProfile, Points

NOTHING = Linear(0.0, 0.0)
VECTOR = BlobLayout(dims=1, w=64, h=1, d=1, c=1, elemsize=4, elempack=1)
PLANE = BlobLayout(dims=3, w=4, h=4, d=1, c=16, elemsize=4, elempack=1)
PACKED = PLANE.with_elempack(4)


def cost(kernel: str = "default", **fields: Any) -> KernelCost:
    """A kernel that costs nothing but what is said; a number is a cost that no slicing changes."""
    named: dict[str, Any] = {
        name: Linear(float(value), 0.0) for name, value in fields.items() if type(value) in (int, float)
    }
    if "run_peak_bytes" in named:
        named["run_peak_bytes"] = always(fields["run_peak_bytes"])
    nothing = dict.fromkeys(
        ("load_seconds", "compute_seconds", "kept_bytes", "load_peak_bytes", "run_heap_bytes"), NOTHING
    )
    plain = {"reads_raw": False, "seconds_spread": 0.0, "run_peak_bytes": always(0), "events": (), "slabs": None}
    rest = {name: value for name, value in fields.items() if name not in named}
    return KernelCost(kernel=kernel, **{**nothing, **plain, **named, **rest})


def always(value: float) -> Points:
    """A cost that does not depend on the units."""
    return Points((1,), (float(value),))


def layer(name: str, inputs: str = "", outputs: str = "", **fields: Any) -> LayerProfile:
    """A layer of weightless `mode` forward between blobs named by words, all of the layout PLANE."""
    taken, given = tuple(inputs.split()), tuple((outputs or name).split())
    plain = LayerProfile(
        index=0,
        type="Convolution",
        name=name,
        mode="forward",
        inputs=taken,
        outputs=given,
        input_layouts=(PLANE,) * len(taken),
        output_layouts=(PLANE,) * len(given),
        raw_bytes=0,
        units=1,
        granularity=1,
        least_units=1,
        blob_axis="",
        window=None,
        convert_seconds=0.0,
        kernels=(cost(),),
    )
    return replace(plain, **fields)


def split(source: str, outputs: str) -> LayerProfile:
    return layer(f"split_{source}", source, outputs, type="Split", mode="alias", kernels=())


def model(*layers: LayerProfile, inputs: str = "in", **fields: Any) -> ModelProfile:
    """A network of these layers; what nobody reads is its output."""
    numbered = tuple(replace(one, index=index) for index, one in enumerate(layers))
    read = {blob for one in numbered for blob in one.inputs}
    plain = ModelProfile(
        model_id="model",
        machine="machine",
        machine_facts=None,
        options=RunOptions(),
        inputs=tuple((blob, PLANE) for blob in inputs.split()),
        outputs=tuple(blob for one in numbered for blob in one.outputs if blob not in read),
        layers=numbered,
        read_seconds_per_byte=1e-9,
        storage=None,
        base_bytes=0,
    )
    return replace(plain, **fields)


def buffer(size_bytes: int, begin: int, end: int, blob: str = "") -> Buffer:
    return Buffer(blob or f"{size_bytes}@{begin}", VECTOR, size_bytes, begin, end)


def choice(seconds: float, **fields: Any) -> Choice:
    plain = Choice(
        kernel="default",
        part_units=1,
        slab_rows=0,
        resident=False,
        seconds=seconds,
        load_seconds=0.0,
        kept_bytes=0,
        heap_bytes=0,
        raw_bytes=0,
        scratch_bytes=0,
        load_bytes=0,
    )
    return replace(plain, **fields)
