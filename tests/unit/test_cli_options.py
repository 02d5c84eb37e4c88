from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flexnn_ncnn import zoo
from flexnn_ncnn.cli.options import (
    budget_option,
    json_option,
    model_argument,
    quiet_option,
    resolve_model,
    threads_option,
)
from flexnn_ncnn.errors import InputError, UsageError


@click.command()
@model_argument
@budget_option
@threads_option
@json_option
@quiet_option
def echo(**options: object) -> None:
    click.echo(repr(options))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_shared_options_become_plain_values() -> None:
    done = CliRunner().invoke(
        echo, ["m.param", "--bin", "w.bin", "--budget", "1.5MiB", "--threads", "2", "--json", "-q"]
    )
    assert done.exit_code == 0
    assert eval(done.output, {"PosixPath": Path, "WindowsPath": Path}) == {
        "model": "m.param",
        "bin_path": Path("w.bin"),
        "budget_bytes": 1_572_864,
        "threads": 2,
        "as_json": True,
        "quiet": True,
    }


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--budget", "nan"], "'nan' is not a size; give a positive number of bytes"),
        (["--budget", "-5MB"], "'-5MB' is not a size"),
        (["--budget", ""], "'' is not a size"),
        (["--budget", "100M"], "such as 100MB or 64MiB"),
        (["--budget", "1MB", "--threads", "0"], "not in the range"),
        (["--budget", "1MB", "--threads", "two"], "not a valid integer"),
    ],
)
def test_wrong_values_are_usage_errors(args: list[str], complaint: str) -> None:
    done = CliRunner().invoke(echo, ["m.param", *args])
    assert done.exit_code == 2
    assert complaint in done.output


def test_the_bin_lies_beside_the_param_unless_named() -> None:
    assert resolve_model("a/m.param") == (Path("a/m.param"), Path("a/m.bin"), None, None)
    assert resolve_model("a/graph").bin_path == Path("a/graph.bin")
    assert resolve_model("m.param", Path("w/x.bin")) == (Path("m.param"), Path("w/x.bin"), None, None)


def test_a_zoo_model_is_found_where_it_is_built(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "is_built", lambda name: True)
    files = resolve_model("squeezenet")
    assert files == (*zoo.model_paths("squeezenet"), zoo.entry("squeezenet"), None)
    assert empty_cache in files.bin_path.parents


def test_a_zoo_model_that_is_not_built_says_how_to_build_it(empty_cache: Path) -> None:
    with pytest.raises(InputError, match="run 'flexnn models build squeezenet'"):
        resolve_model("squeezenet")
    files = resolve_model("squeezenet", weights=False)
    assert files.param_path.is_file()
    assert files.bin_path == empty_cache / "models" / "squeezenet.bin"


def test_a_zoo_model_whose_graph_comes_with_its_weights_must_be_built(empty_cache: Path) -> None:
    with pytest.raises(InputError, match="run 'flexnn models build realesrgan-x4plus'"):
        resolve_model("realesrgan-x4plus", weights=False)


@pytest.mark.parametrize(
    ("model", "bin_path", "complaint"),
    [
        ("sqeezenet", None, "did you mean 'squeezenet'.*'flexnn models list'"),
        ("qqq", None, "neither a model of the zoo nor a .param file; 'flexnn"),
        (".", None, "'.' is a folder; name a .param file"),
        ("", None, "'.' is a folder"),
        ("m.bin", None, "m.bin holds weights; name the graph, m.param"),
        ("squeezenet", Path("w.bin"), "leave --bin out"),
    ],
)
def test_a_name_that_means_nothing_is_a_usage_error(model: str, bin_path: Path | None, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        resolve_model(model, bin_path)


def test_a_file_without_suffix_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("graph").write_text("")
    assert resolve_model("graph").param_path == Path("graph")


def test_a_file_called_like_a_zoo_model_needs_its_folder(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(empty_cache)
    Path("squeezenet").write_text("")
    assert resolve_model("squeezenet", weights=False).entry is zoo.entry("squeezenet")
    assert resolve_model("./squeezenet").entry is None
