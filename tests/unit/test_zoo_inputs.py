from __future__ import annotations

import builtins
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexnn_ncnn import zoo
from flexnn_ncnn.errors import InputError, MissingPackageError
from flexnn_ncnn.zoo.inputs import preprocess


@pytest.mark.parametrize("name", zoo.names())
def test_sample_has_the_shape_and_dtype_of_the_manifest(name: str) -> None:
    known = zoo.entry(name)
    sample = zoo.sample_input(known)
    assert list(sample) == [one.blob for one in known.inputs]
    for one in known.inputs:
        assert sample[one.blob].shape == one.shape
        assert sample[one.blob].dtype == one.dtype
        assert sample[one.blob].flags.c_contiguous


def test_samples_never_change() -> None:
    def digest(name: str) -> str:
        (sample,) = zoo.sample_input(zoo.entry(name)).values()
        return hashlib.sha256(sample.tobytes()).hexdigest()[:16]

    # The generated models' scales were calibrated on these.
    assert digest("vgg19") == "62ca10bb521acb29"
    assert digest("gpt2_124m") == "3f35a81b7c50fdd1"
    assert digest("squeezenet") == "dc6a72e058661488"


def test_ids_are_within_the_vocabulary_and_vary() -> None:
    ids = zoo.sample_input(zoo.entry("gpt2_124m"))["in0"]
    assert ids.min() >= 0
    assert ids.max() < 50257
    assert len(set(ids.tolist())) > 60


def test_preprocessing_orders_channels_and_subtracts_the_mean_of_each() -> None:
    spec = zoo.entry("squeezenet").image
    assert spec is not None
    pixels = np.zeros((1, 2, 3), dtype=np.uint8)
    pixels[0, 1] = (10, 20, 30)
    planes = preprocess(pixels, spec)
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    np.testing.assert_allclose(planes[:, 0, 0], [-103.939, -116.779, -123.68], rtol=1e-6)
    np.testing.assert_allclose(planes[:, 0, 1], [30 - 103.939, 20 - 116.779, 10 - 123.68], rtol=1e-6)


def save(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100), (224, 224), (1, 1)])
def test_any_picture_is_scaled_and_cut_to_the_input(tmp_path: Path, height: int, width: int) -> None:
    path = save(tmp_path / "grey.png", np.full((height, width, 3), 116, dtype=np.uint8))
    planes = zoo.image_input(zoo.entry("squeezenet"), path)
    assert planes.shape == (3, 224, 224)
    np.testing.assert_allclose(planes[1], 116 - 116.779, atol=1e-4)


def test_the_middle_of_the_picture_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((64, 192, 3), dtype=np.uint8)
    pixels[:, 64:128] = 255
    path = save(tmp_path / "stripe.png", pixels)
    np.testing.assert_array_equal(zoo.image_input(zoo.entry("realesrgan-x4plus"), path), 1)
    small = zoo.image_input(zoo.entry("vgg19"), path)
    assert (small[0] > 2).all()  # white in units of ImageNet's deviation


def test_grey_and_transparent_pictures_become_three_channels(tmp_path: Path) -> None:
    for name, pixels in {
        "grey": np.full((256, 256), 9, dtype=np.uint8),
        "alpha": np.full((256, 256, 4), 9, dtype=np.uint8),
    }.items():
        planes = zoo.image_input(zoo.entry("squeezenet"), save(tmp_path / f"{name}.png", pixels))
        np.testing.assert_allclose(planes[:, 7, 7], [9 - 103.939, 9 - 116.779, 9 - 123.68], rtol=1e-6)


def test_picture_smaller_than_an_unscaled_input_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "tiny.png", np.zeros((63, 64, 3), dtype=np.uint8))
    with pytest.raises(InputError, match="64x63 pixels, the model takes 64x64"):
        zoo.image_input(zoo.entry("realesrgan-x4plus"), path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match=r"text\.png is no picture"):
        zoo.image_input(zoo.entry("squeezenet"), tmp_path / "text.png")
    good = save(tmp_path / "good.png", np.arange(256 * 256 * 3, dtype=np.uint8).reshape(256, 256, 3)).read_bytes()
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    for path in (tmp_path / "cut.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(InputError, match="is no picture"):
            zoo.image_input(zoo.entry("squeezenet"), path)


def test_model_of_ids_takes_no_picture() -> None:
    with pytest.raises(InputError, match=r"gpt2_124m takes no picture; .*--input"):
        zoo.image_input(zoo.entry("gpt2_124m"), "any.png")


def test_missing_pillow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "PIL":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(MissingPackageError, match=r"flexnn-ncnn\[models\]"):
        zoo.image_input(zoo.entry("squeezenet"), "any.png")
