"""What a device tells about itself, read from the /proc and /sys of devices that are not here."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn import runtime
from flexnn_ncnn.cli.main import main
from flexnn_ncnn.device import doctor, storage
from flexnn_ncnn.device.cpus import CpuGroup, cpu_groups
from flexnn_ncnn.device.doctor import examine
from flexnn_ncnn.device.storage import measure_storage
from flexnn_ncnn.reporters.devices import write_device

CPUINFO = "processor\t: {}\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
PI_5 = "0xd0b"
BIG, LITTLE = "0xd41", "0xd05"


def device(
    folder: Path, parts: tuple[str, ...], kilohertz: tuple[int, ...] = (), files: dict[str, str] | None = None
) -> Path:
    cpus = folder / "sys/devices/system/cpu"
    written = {folder / "proc/cpuinfo": "".join(CPUINFO.format(i, part) for i, part in enumerate(parts))}
    written[cpus / "possible"] = f"0-{len(parts) - 1}\n"
    for i, speed in enumerate(kilohertz):
        written[cpus / f"cpu{i}/cpufreq/cpuinfo_max_freq"] = f"{speed}\n"
    for name, text in (files or {}).items():
        written[folder / name] = text
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_pi_has_one_group(tmp_path: Path) -> None:
    files = {
        "sys/devices/system/cpu/cpu0/cache/index0/level": "1\n",
        "sys/devices/system/cpu/cpu0/cache/index0/size": "64K\n",
        "sys/devices/system/cpu/cpu0/cache/index2/level": "2\n",
        "sys/devices/system/cpu/cpu0/cache/index2/size": "512K\n",
    }
    root = device(tmp_path, (PI_5,) * 4, (2_400_000,) * 4, files)
    assert cpu_groups(root) == (CpuGroup("Cortex-A76", (0, 1, 2, 3), 2_400_000_000, 512 * 1024),)


def test_a_phone_has_big_and_little_ones_the_fastest_first(tmp_path: Path) -> None:
    root = device(tmp_path, (LITTLE,) * 2 + (BIG,), (1_800_000,) * 2 + (2_600_000,))
    found = cpu_groups(root)
    assert [(group.core, group.cpus) for group in found] == [("Cortex-A78", (2,)), ("Cortex-A55", (0, 1))]


def test_a_device_that_tells_nothing_has_no_groups(tmp_path: Path) -> None:
    assert cpu_groups(tmp_path) == ()


@pytest.mark.parametrize("possible", ["", "all", "0-99999", "3-1", "0-1,x"])
def test_a_list_of_cpus_that_makes_no_sense_is_left_out(tmp_path: Path, possible: str) -> None:
    root = device(tmp_path, (PI_5,) * 2, files={"sys/devices/system/cpu/possible": possible})
    assert [group.cpus for group in cpu_groups(root)] == [(0, 1)]


def test_storage_is_written_and_read(tmp_path: Path) -> None:
    found = measure_storage(tmp_path, 2 * 1024 * 1024)
    assert found.read_bytes_per_second > 0
    assert found.write_bytes_per_second > 0
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_a_phone_fits_one_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_SIZE_BYTES", 1024 * 1024)
    files = {
        "proc/device-tree/model": "Some Phone\0",
        "proc/meminfo": "MemTotal:  4000000 kB\nMemAvailable:  1000000 kB\nSwapTotal: 2000000 kB\n",
    }
    root = device(tmp_path, (LITTLE,) * 4 + (BIG,) * 4, (1_800_000,) * 4 + (2_600_000,) * 4, files)
    text = io.StringIO()
    write_device(replace(examine(root), usable_cpus=6), text)
    lines = text.getvalue().splitlines()
    assert len(lines) <= 24
    assert "board        Some Phone" in lines
    assert "cpus         4 big x Cortex-A78, up to 2.6 GHz; 6 of 8 usable" in lines
    assert "             4 little x Cortex-A55, up to 1.8 GHz" in lines
    assert "memory       4.1 GB, 2.0 GB swap; 1.0 GB available" in lines
    assert sum(line.startswith(("yes ", "no ")) for line in lines) >= 10


def test_without_ncnn_the_report_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(runtime, "native", raising=False)
    monkeypatch.setitem(sys.modules, "flexnn_ncnn.runtime.native", None)
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "_SIZE_BYTES", 1024 * 1024)
    monkeypatch.setattr(sys, "platform", "android")
    found = examine()
    assert (found.ncnn.version, found.fingerprint, found.python[-6:]) == ("", "", "bionic")
    part = found.parts[0]
    assert (part.works, part.install) == (False, "pkg install python-numpy, then pip install ncnn")
    text = io.StringIO()
    write_device(found, text)
    assert "ncnn         cannot be imported" in text.getvalue()


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    found = examine()
    part = next(part for part in found.parts if part.name == "plans kept for later runs")
    assert found.storage is None
    assert not part.works
    assert str(tmp_path / "file") in part.detail


def test_an_emulator_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(storage, "_SIZE_BYTES", 1024 * 1024)
    monkeypatch.setattr(doctor.process_memory, "is_emulated", lambda: True)
    found = examine()
    part = next(part for part in found.parts if part.name == "peaks of memory")
    assert found.is_emulated
    assert not part.works


def test_the_fingerprint_goes_to_a_file_and_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    assert main(["fingerprint", "-o", str(path)]) == 0
    written = path.read_bytes()
    assert main(["fingerprint", "-o", str(path)]) == 1
    assert main(["fingerprint", "-o", str(path), "--force", "--json"]) == 0
    assert path.read_bytes() == written
