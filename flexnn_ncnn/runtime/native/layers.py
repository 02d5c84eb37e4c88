"""ncnn.Layer: options, parameters, loading, computing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import ncnn
import numpy as np
import numpy.typing as npt

from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import KERNELS, RunOptions
from flexnn_ncnn.records.staging import SMALL_BYTES
from flexnn_ncnn.runtime.native import unlocked
from flexnn_ncnn.runtime.native.mats import Mat, NcnnError, Option, mat_from_array

__all__ = [
    "LANES",
    "LoadedLayer",
    "ParamDict",
    "make_option",
    "make_params",
    "ncnn_version",
    "wanted_layout",
]

ParamDict = Any  # an ncnn.ParamDict
ParamScalar = int | float | Sequence[int | float]


def ncnn_version() -> str:
    """Version of the installed ncnn."""
    return str(ncnn.__version__)


def make_option(options: RunOptions, kernel: str = "default") -> Option:
    """An ncnn Option for one layer: the user's options narrowed to `kernel`.

    Allocators stay unset. `Mat.create` is a no-op on a preallocated output that has the allocator of the Option: a Mat
    of ours has none, or is made with the one that the Option was attached to.
    """
    opt = ncnn.Option()
    opt.num_threads = options.num_threads
    opt.use_fp16_packed = opt.use_fp16_storage = opt.use_fp16_arithmetic = options.fp16
    opt.use_bf16_packed = opt.use_bf16_storage = options.bf16
    opt.use_packing_layout = options.packing
    opt.use_vulkan_compute = False
    for field, value in {**dict.fromkeys(options.off, False), **KERNELS[kernel]}.items():
        setattr(opt, field, value)
    return opt


def make_params(params: Iterable[tuple[int, ParamScalar]]) -> ParamDict:
    """A ParamDict; every value must have the type the layer reads (int, float, or an array of one of them)."""
    result = ncnn.ParamDict()
    for param_id, value in params:
        if isinstance(value, (int, float)):
            result.set(param_id, value)
        else:
            bits = _array_bits(value)  # bound: a Mat does not keep its array
            # clone: ParamDict would keep a borrowed pointer
            result.set(param_id, ncnn.Mat(bits).clone())
    return result


def _array_bits(values: Sequence[int | float]) -> npt.NDArray[np.int32]:
    """The 4-byte items of an array parameter, each as its own text says: integers as such, floats as their bits."""
    bits = np.empty(len(values), np.int32)
    for i, value in enumerate(values):
        bits[i] = value if isinstance(value, int) else np.float32(value).view(np.int32)
    return bits


class _Weights(ncnn.ModelBin):  # type: ignore[misc]
    """Hands arrays to `Layer.load_model` one by one, copying nothing."""

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        super().__init__()
        self._arrays = iter(arrays)

    def load(self, w: int, type: int) -> Mat:
        array = next(self._arrays, None)
        # An empty Mat makes load_model return -100; raising in a callback from C++ would not be caught there.
        return ncnn.Mat() if array is None or array.size != w else ncnn.Mat(array)


class _Calls(NamedTuple):
    """How a layer's methods are called; each gives back what ncnn does, 0 if all went well."""

    create_pipeline: Callable[[Any, Option], int]
    forward: Callable[[Any, Mat, Mat, Option], int]
    forward_inplace: Callable[[Any, Mat, Option], int]


_LOCKED = _Calls(
    lambda layer, option: layer.create_pipeline(option),
    lambda layer, bottom, top, option: layer.forward(bottom_blob=bottom, top_blob=top, opt=option),
    lambda layer, blob, option: layer.forward_inplace(bottom_top_blob=blob, opt=option),
)
_UNLOCKED = _Calls(unlocked.create_pipeline, unlocked.forward, unlocked.forward_inplace)


class LoadedLayer:
    """One ncnn layer with its pipeline created, ready to compute.

    Args:
        layer_type: ncnn's layer type.
        params: from `make_params`.
        arrays: flat weight arrays in .bin order: float32, or int8 where the layer takes it.
        option: from `make_option`, for loading and freeing.
        run_option: for computing, by default the same; one like it that went through `ScratchAllocator.attach` has the
            layer allocate there.
        lets_others_run: whether other Python threads run meanwhile though the bindings would not let them; only where
            `capabilities` says that they can.

    Raises:
        NcnnError: ncnn does not know the type, or refuses params or weights.
    """

    __slots__ = ("_calls", "_keep_alive", "_layer", "_option", "_run_option", "name")

    def __init__(
        self,
        layer_type: str,
        params: ParamDict,
        arrays: Sequence[npt.NDArray[Any]],
        option: Option,
        name: str = "",
        run_option: Option | None = None,
        *,
        lets_others_run: bool = False,
    ) -> None:
        layer = ncnn.create_layer(layer_type)
        if layer is None:
            raise NcnnError(f"the installed ncnn {ncnn_version()} has no layer type {layer_type!r}")
        self._layer, self._option, self.name = layer, option, name or layer_type
        self._run_option = option if run_option is None else run_option
        self._calls = _UNLOCKED if lets_others_run else _LOCKED
        # ncnn borrows the weights' memory for as long as the layer lives
        self._keep_alive = arrays
        self._check(layer.load_param(params), "load_param")
        if arrays:
            self._check(layer.load_model(_Weights(arrays)), "load_model")
        self._check(self._calls.create_pipeline(layer, option), "create_pipeline")

    @property
    def takes_one_blob(self) -> bool:
        """Whether the layer maps exactly one blob to one blob."""
        return bool(self._layer.one_blob_only)

    @property
    def works_in_place(self) -> bool:
        """Whether the layer can overwrite its input with its output."""
        return bool(self._layer.support_inplace)

    @property
    def takes_packing(self) -> bool:
        """Whether the layer takes packed blobs (elempack > 1)."""
        return bool(self._layer.support_packing)

    @property
    def takes_any_packing(self) -> bool:
        """Whether the layer takes blobs packed in whichever way they are."""
        return bool(self._layer.support_any_packing)

    @property
    def takes_fp16(self) -> bool:
        """Whether the layer takes half-precision blobs."""
        return bool(self._layer.support_fp16_storage)

    @property
    def takes_bf16(self) -> bool:
        """Whether the layer takes bfloat16 blobs."""
        return bool(self._layer.support_bf16_storage)

    def forward(self, bottom: Mat, top: Mat) -> None:
        """Compute one blob from one; `top` is written in place where its layout fits, replaced otherwise."""
        if bottom.dims == 0:
            raise NcnnError(f"layer {self.name!r}: the input blob is empty")
        result = self._calls.forward(self._layer, bottom, top, self._run_option)
        if result:
            self._check(result, "forward")

    def forward_list(self, bottoms: list[Mat], tops: list[Mat]) -> None:
        """Compute several blobs; every Mat of `tops` must be preallocated in exactly the output's layout."""
        if any(bottom.dims == 0 for bottom in bottoms):
            raise NcnnError(f"layer {self.name!r}: an input blob is empty")
        result = self._layer.forward(bottom_blobs=bottoms, top_blobs=tops, opt=self._run_option)
        if result:
            self._check(result, "forward")

    def forward_inplace(self, blob: Mat) -> None:
        """Overwrite `blob` with the layer's output."""
        if blob.dims == 0:
            raise NcnnError(f"layer {self.name!r}: the blob is empty")
        result = self._calls.forward_inplace(self._layer, blob, self._run_option)
        if result:
            self._check(result, "forward_inplace")

    def compute_with(self, run_option: Option | None, name: str = "", *, lets_others_run: bool = False) -> None:
        """From now on compute with another option, the one it was loaded with by default; also under another name."""
        self._run_option = self._option if run_option is None else run_option
        self._calls = _UNLOCKED if lets_others_run else _LOCKED
        self.name = name or self.name

    def release_raw(self) -> None:
        """Let go of large raw weights, for a kernel that is known not to read them after loading."""
        self._keep_alive = [array for array in self._keep_alive if array.nbytes < SMALL_BYTES]

    def close(self) -> None:
        """Free the pipeline, the transformed weights and the hold on the raw ones; closing twice is fine."""
        if self._layer is not None:
            self._layer.destroy_pipeline(self._option)
            self._layer = None
            self._keep_alive = ()

    def __del__(self) -> None:
        if getattr(self, "_layer", None) is not None:
            self.close()

    def _check(self, result: int, call: str) -> None:
        if result != 0:
            raise NcnnError(f"layer {self.name!r}: ncnn's {call} failed with {result}", hint="check the model file")


def wanted_layout(layout: BlobLayout, layer: LoadedLayer, options: RunOptions, kernel: str) -> BlobLayout:
    """The layout `layer` wants a blob in (net.cpp, NetPrivate::convert_layout).

    Args:
        layout: how the blob lies now.
        layer: who reads it.
        options: the run's options.
        kernel: the layer's kernel; one that turns packing off wants unpacked blobs.
    """
    packing = KERNELS[kernel].get("use_packing_layout", options.packing)
    lane = layout.lane_bytes
    narrow = (options.fp16 and layer.takes_fp16 and _HALF_STORAGE) or (options.bf16 and layer.takes_bf16)
    if lane == 4 and narrow:
        lane = 2
    if lane == 2 and not (layer.takes_bf16 if options.bf16 else layer.takes_fp16):
        lane = 4
    elempack = 1
    if packing and layer.takes_packing:
        elempack = layout.elempack if layer.takes_any_packing else _best_elempack(layout.packed_extent, lane, options)
    return layout.with_lane_bytes(lane).with_elempack(elempack)


def _best_elempack(extent: int, lane_bytes: int, options: RunOptions) -> int:
    if lane_bytes == 1:
        candidates: tuple[int, ...] = (8,)
    elif lane_bytes == 2 and _ARM:
        by_eight = options.fp16 and "use_fp16_arithmetic" not in options.off and ncnn.cpu_support_arm_asimdhp()
        candidates = (8, 4) if by_eight else (4,)
    else:
        candidates = LANES
    return next((pack for pack in candidates if extent % pack == 0), 1)


def _probe_lanes() -> tuple[int, ...]:
    """The elempacks this build of ncnn uses for fp32 on this CPU, widest first.

    The bindings tell AVX but not AVX-512, so a convolution is asked: 1x1 over 16 channels packs as wide as it can.
    """
    layer = LoadedLayer(
        "Convolution",
        make_params([(0, 16), (1, 1), (5, 0), (6, 256)]),
        [np.zeros(256, np.float32)],
        make_option(RunOptions()),
    )
    top, values = ncnn.Mat(), np.zeros((16, 1, 1), np.float32)
    layer.forward(mat_from_array(values), top)
    widest = int(top.elempack)
    layer.close()
    return tuple(pack for pack in (16, 8, 4) if pack <= widest)


_ARM = bool(ncnn.cpu_support_arm_neon())
_HALF_STORAGE = _ARM and bool(ncnn.cpu_support_arm_vfpv4())
LANES = _probe_lanes()
