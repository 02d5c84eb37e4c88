"""The zoo: models to try things on, built on this machine because weights are never shipped."""

from __future__ import annotations

from flexnn_ncnn.zoo.build import build, is_built
from flexnn_ncnn.zoo.entry import GeneratedSource, ImageSpec, InputSpec, PackageSource, ZooEntry
from flexnn_ncnn.zoo.inputs import image_input, sample_input
from flexnn_ncnn.zoo.registry import default_directory, entry, labels, model_paths, names, photo_path

__all__ = [
    "GeneratedSource",
    "ImageSpec",
    "InputSpec",
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
]
