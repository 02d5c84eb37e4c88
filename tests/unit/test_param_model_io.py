from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

import pytest

from param_tools.errors import FlexnnError, ModelFormatError
from param_tools.model_io import atomic_write, default_bin_path, open_model, read_param, write_param
from param_tools.param_binary import format_param_binary
from param_tools.param_text import parse_param

TEXT = "7767517\n2 2\nInput in 0 1 a\nLayerNorm n 1 1 a b 0=2\n"


@pytest.fixture
def param(tmp_path: Path) -> Path:
    path = tmp_path / "m.param"
    path.write_text(TEXT)
    return path


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("m.param", "m.bin"),
        ("a/b.c.param", "a/b.c.bin"),
        ("m.param.bin", "m.bin"),
        ("m", "m.bin"),
        ("m.txt", "m.txt.bin"),
    ],
)
def test_weights_are_expected_beside_the_param(param: str, expected: str) -> None:
    assert default_bin_path(param) == Path(expected)


def test_missing_weights_name_the_place(param: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"m\.bin: the weights are missing; put the \.bin there, or name it"):
        open_model(param)


def test_missing_weights_may_be_allowed_until_they_are_needed(param: Path) -> None:
    with open_model(param, missing_bin_ok=True) as model:
        assert model.weights.arrays == ((), ())
        assert model.weights.size_bytes == 0


def test_bad_layer_parameters_name_the_param_and_line(param: Path) -> None:
    param.write_text(TEXT.replace("0=2", "0=0"))
    param.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelFormatError) as caught:
        open_model(param)
    assert str(caught.value).startswith(f"{param}:4: layer 'n' (LayerNorm)")


def test_another_place_for_the_weights(param: Path, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(16))
    with open_model(param, tmp_path / "w") as model:
        assert model.bin_path == tmp_path / "w"
        assert len(model.weights.arrays[1]) == 2


@pytest.mark.parametrize("reader", [read_param, open_model])
def test_what_cannot_be_read_is_named(reader: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("none", "No such file"), ("pipe", "not a regular file"), (".", "not a regular file")):
        with pytest.raises(ModelFormatError, match=words) as caught:
            reader(tmp_path / name)  # type: ignore[operator]
        assert str(tmp_path / name) in str(caught.value)


def test_weights_in_a_pipe_are_refused(param: Path) -> None:
    os.mkfifo(param.with_suffix(".bin"))
    with pytest.raises(ModelFormatError, match=r"m\.bin: is not a regular file"):
        open_model(param)


def test_absurdly_large_param_is_not_read(param: Path) -> None:
    with open(param, "r+b") as file:
        file.truncate(10**12)
    with pytest.raises(ModelFormatError, match="larger than"):
        read_param(param)


def test_binary_param_is_recognised(param: Path) -> None:
    model = parse_param(TEXT)
    param.with_suffix(".param.bin").write_bytes(format_param_binary(model))
    assert [layer.type for layer in read_param(param.with_suffix(".param.bin")).layers] == ["Input", "LayerNorm"]


def test_param_is_written_as_read(param: Path, tmp_path: Path) -> None:
    write_param(read_param(param), tmp_path / "copy.param")
    assert (tmp_path / "copy.param").read_text() == TEXT


def interrupted_write(file: IO[bytes]) -> None:
    file.write(b"half of the n")
    file.flush()
    raise RuntimeError("interrupted")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="interrupted"), atomic_write(target) as file:
        interrupted_write(file)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_written_files_have_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "file", "w") as file:
            file.write("ü")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert (tmp_path / "file").read_bytes() == "ü".encode()


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("none/file", "No such file or directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "name too long"),
    ):
        with (
            pytest.raises(FlexnnError, match=rf"{name} cannot be written: .*{words}"),
            atomic_write(tmp_path / name) as file,
        ):
            file.write(b"data")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_the_users_affair(tmp_path: Path) -> None:
    with (
        pytest.raises(FlexnnError, match="file cannot be written: No space left"),
        atomic_write(tmp_path / "file"),
        open("/dev/full", "wb", buffering=0) as full,
    ):
        full.write(b"data")
    assert list(tmp_path.iterdir()) == []
