"""Blob shapes: what each layer makes of its inputs' sizes, without running it."""

from __future__ import annotations

from param_tools.shapes.blob_shape import BlobShape
from param_tools.shapes.infer import ShapeReport, infer_shapes

__all__ = ["BlobShape", "ShapeReport", "infer_shapes"]
