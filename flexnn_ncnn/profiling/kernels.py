"""Which kernels of a layer are worth measuring."""

from __future__ import annotations

from flexnn_ncnn.options import RunOptions
from param_tools.graph import Layer
from param_tools.schema import int_params

__all__ = ["candidate_kernels"]


def candidate_kernels(layer: Layer, options: RunOptions) -> tuple[str, ...]:
    """The kernels worth measuring, ncnn's own choice first."""
    params = int_params(layer)
    if params.get("int8_scale_term"):
        return ("default",)
    if layer.type == "InnerProduct" and not options.fp16 and not options.bf16:
        # GEMV is bound by memory: packing gains nothing and costs a copy of the weights
        return ("in_place",)
    if layer.type != "Convolution" or (params["kernel_w"], params["kernel_h"]) == (1, 1):
        return ("default",)
    winograd = (params["kernel_w"], params["kernel_h"]) == (3, 3) and all(
        params[name] == 1 for name in ("stride_w", "stride_h", "dilation_w", "dilation_h")
    )
    if not winograd or "use_winograd_convolution" in options.off:
        return ("default",)
    named = {"winograd23": "use_winograd23_convolution", "sgemm": "use_sgemm_convolution"}
    return ("default", *(kernel for kernel, switch in named.items() if switch not in options.off))
