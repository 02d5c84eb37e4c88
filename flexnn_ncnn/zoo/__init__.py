"""The zoo: models to try things on, built on this machine because weights are never shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flexnn_ncnn.zoo.entry import GeneratedSource, ImageSpec, InputSpec, PackageSource, ZooEntry
from flexnn_ncnn.zoo.inputs import image_input, sample_input
from flexnn_ncnn.zoo.registry import default_directory, entry, labels, model_paths, names, photo_path
from flexnn_ncnn.zoo.status import ModelStatus, is_built, statuses

if TYPE_CHECKING:
    from flexnn_ncnn.zoo.builder import build

__all__ = [
    "GeneratedSource",
    "ImageSpec",
    "InputSpec",
    "ModelStatus",
    "PackageSource",
    "ZooEntry",
    "build",
    "default_directory",
    "entry",
    "image_input",
    "is_built",
    "labels",
    "model_paths",
    "names",
    "photo_path",
    "sample_input",
    "statuses",
]


def __getattr__(name: str) -> Any:
    """`build`, imported when it is asked for: running a model needs no builder, unpickler or archives."""
    if name == "build":
        from flexnn_ncnn.zoo.builder import build

        return build
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
