from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flexnn_ncnn import zoo
from flexnn_ncnn.cli.models import command
from flexnn_ncnn.errors import UsageError


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_list_names_every_model_and_what_is_built(tmp_path: Path) -> None:
    zoo.build("squeezenet11", tmp_path)
    lines = run("list", "--dir", str(tmp_path)).stdout.splitlines()
    rows = {line.split()[0]: line for line in lines if line}
    for known in map(zoo.entry, zoo.names()):
        row = rows[known.name]
        assert f"{known.parameters:,}" in row
        assert known.inputs[0].blob in row
        assert (" yes " in row) == (known.name == "squeezenet11")
        assert (" no " in row) == (known.name != "squeezenet11")
    assert str(tmp_path) in lines[-1]


def test_list_as_json_has_the_fields_of_the_record(tmp_path: Path) -> None:
    found = json.loads(run("list", "--json", "--dir", str(tmp_path)).stdout)
    assert [one["name"] for one in found] == list(zoo.names())
    assert found[-2] == {
        "name": "gpt2_124m",
        "summary": "GPT-2 124M, 64 tokens, random weights",
        "inputs": [{"blob": "in0", "shape": [64], "dtype": "int32", "ids_below": 50257}],
        "output": "out0",
        "parameters": 162304000,
        "bin_bytes": 649216392,
        "built": False,
        "param_path": str(tmp_path / "gpt2_124m.param"),
        "bin_path": str(tmp_path / "gpt2_124m.bin"),
    }


def test_build_writes_into_the_named_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = run("build", "squeezenet11", "mobilenetv2", "--dir", str(folder), "--json")
    found = json.loads(result.stdout)
    assert [(one["name"], one["built"]) for one in found] == [("squeezenet11", True), ("mobilenetv2", True)]
    assert all(Path(one["bin_path"]).stat().st_size == one["bin_bytes"] for one in found)
    assert result.stderr == ""


def test_build_uses_the_cache_folder_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    assert f"Built models are in {tmp_path / 'models'}" in run("build", "squeezenet11").stdout
    assert zoo.is_built("squeezenet11")


def test_all_means_every_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        "flexnn_ncnn.zoo.builder.build", lambda name, directory, *, progress, force: asked.append((name, force))
    )
    run("build", "all", "--force", "--dir", str(tmp_path))
    assert asked == [(name, True) for name in zoo.names()]


def test_nothing_is_built_when_one_name_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'mobilenet'.*mobilenetv2"):
        run("build", "squeezenet11", "mobilenet", "--dir", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [(), ("list",), ("build",)])
def test_help_has_an_example(arguments: tuple[str, ...]) -> None:
    assert "flexnn models" in run(*arguments, "--help").stdout
