"""What to feed a model of the zoo: a fixed sample, or somebody's picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import InputError, MissingPackageError
from flexnn_ncnn.zoo.entry import ImageSpec, InputSpec, ZooEntry
from flexnn_ncnn.zoo.noise import noise, raw_stream

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_input", "picture_input", "preprocess", "sample_blob", "sample_input"]

_SAMPLE_SEED = 0x5A11
# Any other model of three channels sees the picture as the ImageNet networks do.
_IMAGENET = ImageSpec(
    channels="RGB",
    mean=(123.675, 116.28, 103.53),
    scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
    fit="resize",
)
_RESIZE_MARGIN = 8 / 7


def sample_input(known: ZooEntry) -> dict[str, npt.NDArray[Any]]:
    """An input for every blob, the same on every machine: ids, or a picture of noise as the model wants it.

    Returns:
        blob name -> float32 (channels, height, width) or int32 (ids,).
    """
    return {spec.blob: sample_blob(spec, stream, known.image) for stream, spec in enumerate(known.inputs)}


def image_input(known: ZooEntry, image_path: Path | str) -> npt.NDArray[np.float32]:
    """A picture as the model's input blob.

    Args:
        known: a model with one input of three channels.
        image_path: any file Pillow reads.

    Returns:
        float32 (3, height, width), C-contiguous.

    Raises:
        InputError: the model takes no picture, or the file is none.
        MissingPackageError: Pillow is not installed.
    """
    return picture_input(known.name, known.inputs, image_path, known.image)


def picture_input(
    model: str, inputs: Sequence[InputSpec], image_path: Path | str, image: ImageSpec | None = None
) -> npt.NDArray[np.float32]:
    """A picture as the input blob of any model.

    Args:
        model: its name, for errors.
        inputs: its inputs; one of three channels is what a picture goes into.
        image_path: any file Pillow reads.
        image: how it becomes the blob; as ImageNet networks do when None.

    Returns:
        float32 (3, height, width), C-contiguous.

    Raises:
        InputError: the model takes no picture, or the file is none.
        MissingPackageError: Pillow is not installed.
    """
    if len(inputs) != 1 or len(inputs[0].shape) != 3 or inputs[0].shape[0] != 3:
        raise InputError(f"{model} takes no picture", hint="give it an array with --input")
    spec = image or _IMAGENET
    _, height, width = inputs[0].shape
    return preprocess(_open_picture(Path(image_path), spec.fit, height, width), spec)


def preprocess(pixels: npt.NDArray[np.uint8], spec: ImageSpec) -> npt.NDArray[np.float32]:
    """`(value - mean) * scale` of uint8 RGB (height, width, 3) as float32 (3, height, width)."""
    ordered = pixels[:, :, ::-1] if spec.channels == "BGR" else pixels
    planes = ordered.transpose(2, 0, 1).astype(np.float32)
    mean = np.array(spec.mean, dtype=np.float32)[:, None, None]
    scale = np.array(spec.scale, dtype=np.float32)[:, None, None]
    return np.ascontiguousarray((planes - mean) * scale)


def sample_blob(spec: InputSpec, stream: int, image: ImageSpec | None = None) -> npt.NDArray[Any]:
    """A fixed sample for one input, the same on every machine.

    Args:
        spec: the input.
        stream: a number of its own within the model.
        image: how a picture becomes it, where it is one.
    """
    count = int(np.prod(spec.shape))
    if spec.dtype == "int32":
        draws = raw_stream(_SAMPLE_SEED, stream).random_raw(count)
        ids: npt.NDArray[np.int32] = (draws % np.uint64(spec.ids_below)).astype(np.int32)
        return ids.reshape(spec.shape)
    if image is not None:
        channels, height, width = spec.shape
        draws = raw_stream(_SAMPLE_SEED, stream).random_raw(count)
        return preprocess((draws >> np.uint64(56)).astype(np.uint8).reshape(height, width, channels), image)
    return noise(_SAMPLE_SEED, stream, count).astype(np.float32, copy=False).reshape(spec.shape)


def _open_picture(path: Path, fit: str, height: int, width: int) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(package="Pillow", extra="models", needed_for="reading a picture") from error
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no picture that can be read: {error}", hint="give a PNG or JPEG file") from error
    if fit == "resize":
        picture = _scaled(picture, height, width)
    if picture.height < height or picture.width < width:
        raise InputError(f"{path} has {picture.width}x{picture.height} pixels, the model takes {width}x{height}")
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height)), dtype=np.uint8)


def _scaled(picture: Image, height: int, width: int) -> Image:
    """The picture scaled so that the middle `height` x `width` is seven eighths of its shorter side."""
    from PIL import Image

    factor = max(height / picture.height, width / picture.width) * _RESIZE_MARGIN
    size = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.BILINEAR)
