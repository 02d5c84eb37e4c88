"""What the system says about memory, on trees of files as kernels have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexnn_ncnn.runtime.memory.memory_limits import MemoryLimits, MemoryState

MB = 10**6
MEMINFO = (
    "MemTotal:        4000000 kB\nMemFree:          100000 kB\nMemAvailable:    1000000 kB\nHugePages_Total:       0\n"
)
V2_MOUNT = "41 31 0:38 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
OTHER_MOUNTS = "23 1 254:0 / / rw - ext4 /dev/root rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
UNLIMITED = str(0x7FFFFFFFFFFFF000)


def tree(root: Path, files: dict[str, str]) -> MemoryLimits:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryLimits(root)


def v2(folder: str, maximum: str, current: int, stat: str = "", **others: str) -> dict[str, str]:
    files = {"memory.max": maximum + "\n", "memory.current": f"{current}\n", "memory.stat": stat}
    files |= {name.replace("_", "."): text for name, text in others.items()}
    return {f"sys/fs/cgroup/{folder}/{name}": text for name, text in files.items()}


def v1(folder: str, limit: str, usage: int, stat: str = "") -> dict[str, str]:
    files = {"memory.limit_in_bytes": limit + "\n", "memory.usage_in_bytes": f"{usage}\n", "memory.stat": stat}
    return {f"sys/fs/cgroup/memory/{folder}/{name}": text for name, text in files.items()}


def inside(cgroup: str, mounts: str) -> dict[str, str]:
    return {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": OTHER_MOUNTS + mounts}


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    assert MemoryLimits(tmp_path).read() is None
    assert tree(tmp_path, {"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 10 kB\n"}).read() is None


def test_the_machine_alone(tmp_path: Path) -> None:
    found = tree(tmp_path, {"proc/meminfo": MEMINFO}).read()
    assert found == MemoryState(1_024_000_000, 4_096_000_000, "MemAvailable", 0.0)


def test_a_group_of_version_2(tmp_path: Path) -> None:
    files = inside("0::/app\n", V2_MOUNT) | v2("app", str(300 * MB), 120 * MB)
    assert tree(tmp_path, files).read() == MemoryState(180 * MB, 300 * MB, str(tmp_path / "sys/fs/cgroup/app"))


def test_a_group_of_version_1(tmp_path: Path) -> None:
    cgroup = "9:name=systemd:/x\n4:memory:/app\n1:cpu:/other\n0::/nowhere\n"
    files = inside(cgroup, V1_MOUNT) | v1("app", str(300 * MB), 120 * MB)
    found = tree(tmp_path, files).read()
    assert found == MemoryState(180 * MB, 300 * MB, str(tmp_path / "sys/fs/cgroup/memory/app"))


def test_controllers_mounted_together(tmp_path: Path) -> None:
    mount = V1_MOUNT.replace("rw,memory", "rw,cpu,memory")
    files = inside("4:cpu,memory:/app\n", mount) | v1("app", str(300 * MB), 120 * MB)
    found = tree(tmp_path, files).read()
    assert found is not None
    assert found.available_bytes == 180 * MB


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_counts(version: int, tmp_path: Path) -> None:
    if version == 2:
        files = inside("0::/outer/inner/leaf\n", V2_MOUNT) | v2("outer/inner/leaf", "max", 50 * MB)
        files |= v2("outer/inner", str(200 * MB), 150 * MB) | v2("outer", str(500 * MB), 460 * MB)
    else:
        files = inside("4:memory:/outer/inner/leaf\n", V1_MOUNT) | v1("outer/inner/leaf", UNLIMITED, 50 * MB)
        files |= v1("outer/inner", str(200 * MB), 150 * MB) | v1("outer", str(500 * MB), 460 * MB)
    found = tree(tmp_path, files).read()
    assert found is not None
    assert (found.available_bytes, found.limit_bytes) == (40 * MB, 500 * MB)


def test_a_soft_limit_of_version_2_counts_as_well(tmp_path: Path) -> None:
    files = inside("0::/app\n", V2_MOUNT) | v2("app", str(300 * MB), 120 * MB, memory_high=str(150 * MB))
    found = tree(tmp_path, files).read()
    assert found is not None
    assert (found.available_bytes, found.limit_bytes) == (30 * MB, 150 * MB)


def test_above_a_limit_there_is_less_than_nothing(tmp_path: Path) -> None:
    files = inside("0::/app\n", V2_MOUNT) | v2("app", str(100 * MB), 120 * MB)
    found = tree(tmp_path, files).read()
    assert found is not None
    assert found.available_bytes == -20 * MB


@pytest.mark.parametrize(
    ("cached_mb", "dirty_mb", "usable_mb"),
    [(100, 0, 84), (100, 60, 24), (20, 0, 10), (20, 30, 0), (0, 0, 0)],
)
@pytest.mark.parametrize("version", [1, 2])
def test_page_cache_is_there_for_the_taking_but_for_what_is_in_use(
    version: int, cached_mb: int, dirty_mb: int, usable_mb: int, tmp_path: Path
) -> None:
    used, files = 290 * MB, inside("0::/app\n4:memory:/app\n", V2_MOUNT if version == 2 else V1_MOUNT)
    cached = {"inactive_file": cached_mb * MB // 2, "active_file": cached_mb * MB // 2, "inactive_anon": 40 * MB}
    if version == 2:
        stat = cached | {"file_dirty": dirty_mb * MB, "file_writeback": 0}
        files |= v2("app", str(300 * MB), used, "".join(f"{name} {value}\n" for name, value in stat.items()))
    else:
        stat = {f"total_{name}": value for name, value in cached.items()} | {"total_dirty": dirty_mb * MB}
        stat |= {"inactive_file": 7, "active_file": 7}  # of this group alone, without those in it
        files |= v1("app", str(300 * MB), used, "".join(f"{name} {value}\n" for name, value in stat.items()))
    found = tree(tmp_path, files).read()
    assert found is not None
    assert found.available_bytes == (10 + usable_mb) * MB


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    mount = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    files = inside("4:memory:/docker/abc\n", mount) | v1(".", str(300 * MB), 120 * MB)
    found = tree(tmp_path, files).read()
    assert found is not None
    assert found.available_bytes == 180 * MB


@pytest.mark.parametrize("group", ["/../elsewhere", "/docker/other/deep", "/gone (deleted)"])
def test_a_group_that_is_not_mounted_here_is_left_out(group: str, tmp_path: Path) -> None:
    mount = "41 31 0:38 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    found = tree(tmp_path, inside(f"0::{group}\n", mount)).read()
    assert found is not None
    assert found.source == "MemAvailable"


def test_a_mount_with_a_space_in_its_path(tmp_path: Path) -> None:
    mount = "41 31 0:38 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n"
    files = {name.replace("fs/cgroup", "fs/my groups"): text for name, text in v2("app", "100", 40).items()}
    found = tree(tmp_path, inside("0::/app\n", mount) | files).read()
    assert found is not None
    assert found.available_bytes == 60


def test_pressure_is_the_most_of_machine_and_groups(tmp_path: Path) -> None:
    def lines(percent: float) -> str:
        return (
            f"some avg10={percent:.2f} avg60=70.00 avg300=0.00 total=5\nfull avg10=90.00 avg60=0.00 avg300=0 total=1\n"
        )

    files = inside("0::/outer/app\n", V2_MOUNT) | {"proc/pressure/memory": lines(3)}
    limits = tree(tmp_path, files)
    assert limits.read().pressure_percent == 3.0  # type: ignore[union-attr]
    tree(
        tmp_path,
        v2("outer/app", "max", 1, memory_pressure=lines(12.5)) | v2("outer", "max", 1, memory_pressure=lines(4)),
    )
    assert limits.read().pressure_percent == 12.5  # type: ignore[union-attr]


@pytest.mark.parametrize("nonsense", ["", "\n", "garbage", "-5", "12 34", "\x00\xff", "9" * 40])
def test_nonsense_in_any_file_is_left_out(nonsense: str, tmp_path: Path) -> None:
    files = inside("0::/app\n", V2_MOUNT) | v2("app", str(300 * MB), 120 * MB, memory_pressure="some avg10=1.00")
    for name in files:
        limits = tree(tmp_path, files | {name: nonsense, "proc/pressure/memory": nonsense})
        found = limits.read()
        assert found is None or found.source in ("MemAvailable", str(tmp_path / "sys/fs/cgroup/app"))


def test_this_system_says_something() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("not Linux")
    found = MemoryLimits().read()
    assert found is not None
    assert 0 < found.available_bytes <= found.limit_bytes
