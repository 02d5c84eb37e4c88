"""What a profile or plan belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexnn_ncnn.records.fingerprint import machine_fingerprint, model_identity
from param_tools.errors import ModelFormatError


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    param, weights = tmp_path / "m.param", tmp_path / "m.bin"
    param.write_text("7767517\n")
    weights.write_bytes(bytes(range(256)) * 1000)
    return param, weights


def test_a_machine_is_itself() -> None:
    assert machine_fingerprint("1.0") == machine_fingerprint("1.0")


def test_another_ncnn_is_another_machine() -> None:
    assert machine_fingerprint("1.0") != machine_fingerprint("1.1")


def test_files_alike_are_the_same_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    copies = tmp_path / "c.param", tmp_path / "c.bin"
    for source, copy in zip(files, copies, strict=True):
        copy.write_bytes(source.read_bytes())
    assert model_identity(*files) == model_identity(*copies)


@pytest.mark.parametrize("position", [0, -1])
def test_the_first_and_the_last_byte_of_the_weights_count(files: tuple[Path, Path], position: int) -> None:
    before = model_identity(*files)
    data = bytearray(files[1].read_bytes())
    data[position] ^= 1
    files[1].write_bytes(data)
    assert model_identity(*files) != before


def test_another_length_is_another_model(files: tuple[Path, Path]) -> None:
    before = model_identity(*files)
    files[1].write_bytes(files[1].read_bytes() + bytes(4))
    assert model_identity(*files) != before


def test_any_byte_of_the_param_counts(files: tuple[Path, Path]) -> None:
    before = model_identity(*files)
    files[0].write_text("7767517\n\n")
    assert model_identity(*files) != before


def test_an_empty_weights_file_has_an_identity(files: tuple[Path, Path]) -> None:
    files[1].write_bytes(b"")
    assert len(model_identity(*files)) == 32


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(files: tuple[Path, Path], which: int) -> None:
    files[which].unlink()
    with pytest.raises(ModelFormatError, match=files[which].name):
        model_identity(*files)
