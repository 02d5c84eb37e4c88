"""A model's files and what to feed it, by its name in the zoo or the path of its .param."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flexnn_ncnn import zoo
from flexnn_ncnn.model_inputs import input_specs, sample_arrays
from param_tools.model_io import default_bin_path, read_param

__all__ = ["ModelFiles", "model_files"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What is needed to run a model.

    Attributes:
        param_path, bin_path: the model.
        inputs: a sample for each input blob.
    """

    param_path: Path
    bin_path: Path
    inputs: Mapping[str, npt.NDArray[Any]]


def model_files(model: str) -> ModelFiles:
    """The files of a model and a sample.

    Raises:
        FlexnnError: they are not there, or cannot be read.
    """
    if model in zoo.names():
        return ModelFiles(*zoo.model_paths(model), zoo.sample_input(zoo.entry(model)))
    param_path = Path(model)
    inputs = sample_arrays(input_specs(read_param(param_path)), model)
    return ModelFiles(param_path, default_bin_path(param_path), inputs)
