from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from param_tools.errors import FormatVersionError, ModelFormatError
from param_tools.slicing.manifest import (
    LargeLayer,
    Slice,
    SlicedLayer,
    SliceManifest,
    default_manifest_path,
    read_manifest,
    write_manifest,
)

MANIFEST = SliceManifest(
    "a.param",
    "a.bin",
    12,
    (SlicedLayer("conv", 1, "Convolution", "outputs", True, (Slice("conv_slice0", 2, 0, 16, 0, 8),)),),
    (LargeLayer("lstm", 4, 100, 10),),
)


def test_a_manifest_reads_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(MANIFEST, tmp_path / "a.slices.json")
    assert read_manifest(tmp_path / "a.slices.json") == MANIFEST


def test_it_lies_beside_the_param() -> None:
    assert default_manifest_path("x/net.param") == Path("x/net.slices.json")


def test_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": "flexnn-ncnn slices", "version": 7}))
    with pytest.raises(FormatVersionError, match="has format version 7, this release reads 1"):
        read_manifest(path)


def hostile(change: dict[str, Any]) -> str:
    layer = {"name": "l", "layer_index": 0, "weights_bytes": 1, "limit_bytes": 1}
    document = {"format": "flexnn-ncnn slices", "version": 1, "source_param": "a", "source_bin": "b"}
    return json.dumps(document | {"source_bin_bytes": 1, "layers": [], "too_large": [layer]} | change)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\x00",
        "[" * 100_000,
        hostile({"format": "other"}),
        hostile({"more": 1}),
        hostile({"layers": {}}),
        hostile({"layers": [1]}),
        hostile({"layers": [{}]}),
        hostile({"source_bin_bytes": -1}),
        hostile({"source_bin_bytes": True}),
        hostile({"source_bin_bytes": 2**63}),
        hostile({"source_bin_bytes": 1.0}),
        hostile({"source_param": None}),
    ],
)
def test_hostile_manifests_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ModelFormatError, match="not a manifest of slices"):
        read_manifest(path)


def test_a_missing_manifest_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")
