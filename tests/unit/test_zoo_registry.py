from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from flexnn_ncnn import zoo
from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.paths import cache_dir, data_dir
from flexnn_ncnn.zoo.entry import GeneratedSource, PackageSource
from flexnn_ncnn.zoo.generated import array_recipes
from flexnn_ncnn.zoo.registry import parse_manifest
from param_tools.errors import FormatVersionError, ModelFormatError
from param_tools.model_io import read_param

GENERATED = [name for name in zoo.names() if isinstance(zoo.entry(name).source, GeneratedSource)]


def test_zoo_has_the_six_models_of_the_paper_and_two_trained_ones() -> None:
    assert set(GENERATED) == {
        "squeezenet11",
        "mobilenetv2",
        "resnet152",
        "vgg19",
        "vit_b16_mha",
        "vit_b16_sdpa",
        "gpt2_124m",
    }
    assert set(zoo.names()) - set(GENERATED) == {"squeezenet", "realesrgan-x4plus"}


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'resnet125'.*resnet152"):
        zoo.entry("resnet125")
    with pytest.raises(UsageError, match=r"squeezenet.*gpt2_124m"):
        zoo.entry("%%%")


@pytest.mark.parametrize("name", zoo.names())
def test_entry_agrees_with_its_graph(name: str) -> None:
    known = zoo.entry(name)
    if not known.graph:
        assert isinstance(known.source, PackageSource)
        assert known.source.param_member
        return
    path = data_dir() / known.graph
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known.param_sha256
    model = read_param(path)
    assert model.input_blobs == tuple(one.blob for one in known.inputs)
    assert model.output_blobs == (known.output,)
    recipes = array_recipes(model)
    assert sum(recipe.count for recipe in recipes) == known.parameters
    assert sum(4 * recipe.count + 4 * recipe.tagged for recipe in recipes) == known.bin_bytes
    if isinstance(known.source, GeneratedSource):
        assert len(known.source.exponents) == len(recipes)


@pytest.mark.parametrize("name", zoo.names())
def test_hashes_are_hashes(name: str) -> None:
    known = zoo.entry(name)
    for digest in (known.param_sha256, known.bin_sha256, getattr(known.source, "archive_sha256", "0" * 64)):
        assert len(bytes.fromhex(digest)) == 32


def test_trained_model_has_labels_and_a_photo() -> None:
    known = zoo.entry("squeezenet")
    names = zoo.labels(known)
    photo = zoo.photo_path(known)
    assert names is not None
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[285], names[967], names[999]) == ("tench", "Egyptian cat", "espresso", "toilet tissue")
    assert photo is not None
    assert photo.read_bytes().startswith(b"\x89PNG")
    assert zoo.labels(zoo.entry("vgg19")) is None
    assert zoo.photo_path(zoo.entry("vgg19")) is None


def test_paths_follow_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo.model_paths("vgg19", tmp_path) == (tmp_path / "vgg19.param", tmp_path / "vgg19.bin")
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    assert zoo.default_directory() == tmp_path / "cache" / "models"
    assert zoo.model_paths("vgg19")[1] == tmp_path / "cache" / "models" / "vgg19.bin"


def test_cache_folder_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEXNN_CACHE_DIR", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "flexnn-ncnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_dir() == tmp_path / ".cache" / "flexnn-ncnn"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "flexnn-ncnn"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "flexnn-ncnn"


def manifest_document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((data_dir() / "manifest.json").read_text(encoding="utf-8"))
    return document


def test_manifest_of_another_version_is_refused_with_both_versions() -> None:
    document = manifest_document() | {"version": 2}
    with pytest.raises(FormatVersionError, match=r"version 2, this release reads 1"):
        parse_manifest(json.dumps(document))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"format": "something else", "version": 1, "models": {}}',
        '{"format": "flexnn-ncnn zoo", "version": 1, "models": []}',
        '{"format": "flexnn-ncnn zoo", "version": 1, "models": {"a": {}}}',
        '{"format": "flexnn-ncnn zoo", "version": 1, "models": {"a": 3}}',
    ],
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ModelFormatError, match=r"some\.json"):
        parse_manifest(text, "some.json")


def test_entry_with_an_unknown_field_or_kind_is_refused() -> None:
    document = manifest_document()
    document["models"]["vgg19"]["colour"] = "red"
    with pytest.raises(ModelFormatError, match="colour"):
        parse_manifest(json.dumps(document))
    document = manifest_document()
    document["models"]["vgg19"]["source"]["kind"] = "magic"
    with pytest.raises(ModelFormatError, match="magic"):
        parse_manifest(json.dumps(document))
