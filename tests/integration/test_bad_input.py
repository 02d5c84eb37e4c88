"""What a user can get wrong: one sentence that names the place and the way out, its status, and no traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexnn_ncnn.cli.main import main
from tests.integration import tiny_models

Damage = Callable[[Path], object]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"tail")


def replace(old: str, new: str) -> Damage:
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def refused(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *args: object,
    command: str = "run",
) -> tuple[int, str]:
    """Status and sentence of a command that must fail without a word on stdout."""
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(folder / "cache"))
    status = main([command, *map(str, args), "--quiet"])
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("flexnn: error: ")
    assert "Traceback" not in err
    return status, err


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize(
    ("suffix", "damage", "words"),
    [
        (".bin", Path.unlink, ["classifier.bin", "cannot be read: No such file"]),
        (".bin", cut, ["classifier.bin", "fc"]),
        (".bin", append, ["classifier.bin", "4 bytes"]),
        (".param", Path.unlink, ["classifier.param", "No such file"]),
        (".param", replace("7767517", "7767518"), ["classifier.param", "magic"]),
        (".param", replace("5 5", "9 5"), ["classifier.param", "9"]),
        (".param", replace("5 5", "5 50"), ["classifier.param", "50"]),
        (".param", replace("1 1 2 3", "1 1 nosuch 3"), ["classifier.param:6", "'nosuch', which no layer produces"]),
        (".param", replace("1 1 in0 1", "1 1 2 1"), ["classifier.param", "'1' -> '2' -> '1' form a cycle"]),
        (".param", replace("Convolution", "Konvolution"), ["classifier.param", "Konvolution"]),
    ],
    ids=["no bin", "short bin", "long bin", "no param", "magic", "layers", "blobs", "unknown blob", "cycle", "type"],
)
def test_damaged_model_files(
    command: str,
    suffix: str,
    damage: Damage,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    param = tiny_models.classifier(tmp_path)
    damage(param.with_suffix(suffix))
    status, err = refused(capfd, monkeypatch, tmp_path, param, "--budget", "10MB", command=command)
    assert status == 1
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 32, 32)), "layer 'conv' (Convolution) reads 3 channels, not 4"),
        (np.zeros((32, 32, 3)), "reads 3 channels, not 32"),
        (np.zeros((1, 3, 32, 32)), "leave the batch dimension out"),
        (np.zeros((3, 32)), "layer 'conv' (Convolution)"),
        (np.zeros(()), "has the shape ()"),
        (np.zeros((3, 0, 32)), "has the shape (3, 0, 32)"),
        (np.zeros((1, 1, 3, 32, 32)), "has the shape (1, 1, 3, 32, 32)"),
        (np.zeros((3, 32, 32), complex), "complex128, which no network takes; give float32"),
        (np.zeros((3, 32, 32), bool), "array of bool"),
        (np.full((3, 32, 32), "a"), "which no network takes"),
        (np.full((3, 32, 32), 1e300), "values that float32 cannot hold"),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_arrays_the_network_cannot_take(
    array: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    param = tiny_models.classifier(tmp_path)
    np.save(tmp_path / "x.npy", array)
    status, err = refused(capfd, monkeypatch, tmp_path, param, "--budget", "10MB", "--input", tmp_path / "x.npy")
    assert status == 1
    assert words in err


def test_files_that_are_no_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    param = tiny_models.classifier(tmp_path)

    def refused_file(name: str) -> str:
        status, err = refused(capfd, monkeypatch, tmp_path, param, "--budget", "10MB", "--input", tmp_path / name)
        assert status == 1
        return err

    assert "missing.npy: cannot be read: No such file" in refused_file("missing.npy")
    (tmp_path / "text.npy").write_text("not an array")
    assert "text.npy is no .npy file" in refused_file("text.npy")
    (tmp_path / "empty.npy").write_text("")
    assert "empty.npy is no .npy file" in refused_file("empty.npy")
    np.save(tmp_path / "short.npy", np.zeros((3, 32, 32), np.float32))
    cut(tmp_path / "short.npy")
    assert "short.npy is no .npy file" in refused_file("short.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, None]), allow_pickle=True)
    assert "objects.npy is no .npy file of numbers" in refused_file("objects.npy")
    np.savez(tmp_path / "several.npz", a=np.zeros(3))
    assert "several.npz holds several arrays" in refused_file("several.npz")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 100000000, 100000000), }".ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "huge.npy is no .npy file" in refused_file("huge.npy")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "pipe.npy: is not a regular file" in refused_file("pipe.npy")


def test_ids_must_be_integers_within_int32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    param, x = tiny_models.lookup(tmp_path), tmp_path / "x.npy"
    for array, words in ((np.zeros(5), "takes ids, not float64"), (np.full(5, 2**40), "that int32 cannot hold")):
        np.save(x, array)
        status, err = refused(capfd, monkeypatch, tmp_path, param, "--budget", "10MB", "--input", x)
        assert status == 1
        assert words in err


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["--budget", "nan"], 2, "'nan' is not a size"),
        (["--budget", "-1"], 2, "'-1' is not a size"),
        (["--budget", "1kB"], 3, "cannot work: layer '"),
        (["--budget", "10MB", "--input", "x.npy", "--image", "x.png"], 2, "both say what to feed"),
        (["--budget", "10MB", "--input", "x.npy", "--shape", "in0=3x32x32"], 2, "leave --shape out"),
        (["--budget", "10MB", "--input", "in0=x.npy", "--input", "in0=y.npy"], 2, "given twice for 'in0'"),
        (["--budget", "10MB", "--input", "nosuch=x.npy"], 1, "no input blob 'nosuch'; it reads in0"),
        (["--budget", "10MB", "--shape", "nosuch=3x32x32"], 1, "no input blob 'nosuch'; it reads in0"),
        (["--budget", "10MB", "--image", "nosuch.png"], 1, "nosuch.png is no picture"),
        (["--budget", "10MB", "-o", "out.txt"], 2, "out.txt does not end in .npy or .npz"),
        (["--budget", "10MB", "-o", "no/such/out.npy"], 1, "no/such: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_cannot_be_meant(
    args: list[str],
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    param = tiny_models.classifier(tmp_path)
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((3, 32, 32), np.float32))
    found, err = refused(capfd, monkeypatch, tmp_path, param, *args)
    assert (found, words in err) == (status, True), err


def test_an_input_that_is_not_given_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    param = tiny_models.two_ways(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros(64, np.float32))
    common = (param, "--budget", "10MB", "--input")
    status, err = refused(capfd, monkeypatch, tmp_path, *common, f"left={tmp_path / 'x.npy'}")
    assert status == 1
    assert "no input is given for blob 'right'; the network reads left, right" in err
    status, err = refused(capfd, monkeypatch, tmp_path, *common, tmp_path / "x.npy")
    assert status == 2
    assert "does not say which input; give BLOB=x.npy: left, right" in err


def test_what_ncnn_refuses_in_the_child_is_a_sentence_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    layers = [
        tiny_models.layer("Input", "data", "", "in0", p0=8, p1=8, p2=4),
        tiny_models.layer("ShuffleChannel", "shuffle", "in0", "out0", p0=0),
    ]
    param = tiny_models.write(layers, tmp_path / "bad.param")
    status, err = refused(capfd, monkeypatch, tmp_path, param, "--budget", "10MB")
    assert status == 1
    assert "layer 'shuffle': ncnn's load_param failed" in err
