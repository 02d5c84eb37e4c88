"""`flexnn runtime` on the ncnn that is installed."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path

import ncnn
import pytest

from flexnn_ncnn.building.build import BuiltWheel
from flexnn_ncnn.building.install import Installed
from flexnn_ncnn.cli.main import main
from flexnn_ncnn.records.capabilities import CAPABILITY_EFFECTS, Capabilities
from flexnn_ncnn.reporters.runtime import write_installed, write_wheel
from flexnn_ncnn.runtime import native

WHEEL = BuiltWheel(
    Path("/cache/ncnn.whl"), "1.0.1+flexnn.2", ("release-gil",), native=True, vulkan=True, is_current=True
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))


def test_info_has_a_line_for_each_capability(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtime", "info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ncnn.__version__ in lines[0]
    for name, effect in CAPABILITY_EFFECTS.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert line.split()[1] == ("yes" if getattr(native.capabilities(), name) else "no")
        assert line.endswith(effect)
    assert ("'flexnn runtime build' builds a patched one." in lines) == (not hasattr(ncnn, "patches"))


def test_info_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtime", "info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == ncnn.__version__
    assert set(found["capabilities"]) == {field.name for field in fields(Capabilities)}
    assert Capabilities(**found["capabilities"]) == native.capabilities()
    assert found["built"] == []


def test_install_without_a_build_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runtime", "install"]) == 1
    assert capsys.readouterr().err.endswith("run 'flexnn runtime build' first\n")


def test_reports_say_what_was_built_and_how_to_go_back() -> None:
    built, installed = io.StringIO(), io.StringIO()
    write_wheel(WHEEL, built)
    write_installed(Installed("", "1.0.1+flexnn.2", WHEEL.path, "pip install ncnn==1.0.1"), installed)
    assert "kernels   of this CPU, with Vulkan\n" in built.getvalue()
    assert "patches   release-gil\n" in built.getvalue()
    assert installed.getvalue() == (
        "installed ncnn 1.0.1+flexnn.2\nbefore    none\nwheel     /cache/ncnn.whl\ngo back   pip install ncnn==1.0.1\n"
    )
