"""Which kernels of a layer are worth measuring."""

from __future__ import annotations

from flexnn_ncnn.preparing.assemble import slab_windows
from flexnn_ncnn.records.layout import BlobLayout
from flexnn_ncnn.records.options import RunOptions
from param_tools.graph import Layer
from param_tools.schema import int_params

__all__ = ["candidate_kernels"]

# Transforming weights for ncnn's own choice takes as long as it saves where they are used at some 800 places of the
# output; at four times that no other kernel wins, whatever the machine.
_MOST_PLACES = 56 * 56


def candidate_kernels(layer: Layer, bottom: BlobLayout, options: RunOptions) -> tuple[str, ...]:
    """The kernels worth measuring, ncnn's own choice first.

    Args:
        layer: the layer.
        bottom: layout of its first input.
        options: how to compute.
    """
    params = int_params(layer)
    if params.get("int8_scale_term"):
        return ("default",)
    if layer.type == "InnerProduct" and not options.fp16 and not options.bf16:
        # GEMV is bound by memory: packing gains nothing and costs a copy of the weights
        return ("in_place",)
    if layer.type != "Convolution" or (params["kernel_w"], params["kernel_h"]) == (1, 1):
        return ("default",)
    windows = slab_windows(layer, bottom)
    if windows is not None and windows[0].outputs * windows[1].outputs > _MOST_PLACES:
        return ("default",)
    winograd = (params["kernel_w"], params["kernel_h"]) == (3, 3) and all(
        params[name] == 1 for name in ("stride_w", "stride_h", "dilation_w", "dilation_h")
    )
    if not winograd or "use_winograd_convolution" in options.off:
        return ("default",)
    named = {"winograd23": "use_winograd23_convolution", "sgemm": "use_sgemm_convolution"}
    return ("default", *(kernel for kernel, switch in named.items() if switch not in options.off))
