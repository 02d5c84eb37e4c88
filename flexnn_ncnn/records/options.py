"""How a model is to be computed: what a profile and a plan are made for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KERNELS", "SWITCHES", "RunOptions"]

# kernel -> the ncnn Option fields that make a layer choose it (internals: convolution_*.cpp, innerproduct_*.cpp)
KERNELS: dict[str, dict[str, bool]] = {
    "default": {},
    "winograd43": {"use_winograd63_convolution": False},
    "winograd23": {"use_winograd63_convolution": False, "use_winograd43_convolution": False},
    "sgemm": {"use_winograd_convolution": False},
    "direct": {"use_winograd_convolution": False, "use_sgemm_convolution": False},
    "in_place": {"use_packing_layout": False},
}

# further ncnn Option fields that a user may turn off, and that some layer asks on a CPU
SWITCHES = (
    "use_fp16_arithmetic",
    "use_sgemm_convolution",
    "use_winograd23_convolution",
    "use_winograd43_convolution",
    "use_winograd63_convolution",
    "use_winograd_convolution",
)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The part of ncnn's Option that decides results.

    Attributes:
        num_threads: compute threads; kernels and workspace depend on it.
        fp16: storage, packing and arithmetic in half precision where ncnn supports it.
        bf16: storage in bfloat16 where ncnn supports it.
        packing: values of several channels side by side (ncnn's elempack).
        off: names in `SWITCHES` of what else the user turned off, in their order.

    Raises:
        ValueError: `off` has a name that is not in `SWITCHES`.
    """

    num_threads: int = 1
    fp16: bool = False
    bf16: bool = False
    packing: bool = True
    off: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.off) - set(SWITCHES))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no option of ncnn that can be turned off here")
        # JSON gives a list
        object.__setattr__(self, "off", tuple(name for name in SWITCHES if name in self.off))
