"""FlexNN's text files: byte goldens, round trips, and what a hostile or damaged file gets."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.errors import FlexnnError, PlanError, ProfileError
from flexnn_ncnn.interop.plan_files import read_flexnn_plan, write_flexnn_plan
from flexnn_ncnn.interop.profile_files import read_flexnn_profile, write_flexnn_profile
from flexnn_ncnn.interop.records import (
    KINDS,
    FlexnnPlan,
    FlexnnProfile,
    LayerTime,
    MemoryObject,
    PlacedObject,
    layer_dependencies,
    predicted_seconds,
)
from flexnn_ncnn.planning.planner import schedule, workload
from flexnn_ncnn.scheduling.exchange import from_flexnn_profile, to_flexnn_plan, to_flexnn_profile
from tests.examples import examples
from tests.unit import profiles
from tests.unit.small_profiles import BASE_BYTES, small_profile, small_workload

PROFILE = FlexnnProfile(
    (MemoryObject("weight", 1, 2, 1064), MemoryObject("blob", 1, 3, 564), MemoryObject("workspace", 2, 3, 164)),
    (LayerTime(0.0, 0.0), LayerTime(0.002, 0.003), LayerTime(0.0, 0.001)),
)
MEMPROF = """\
layer_index,memory_type,event_type,ptr,size,time
1,0,1,0x100000000,1064,0.000000
1,1,1,0x100000040,564,1.000000
1,0,0,0x100000000,0,2.000000
2,2,1,0x100000080,164,3.000000
2,1,0,0x100000040,0,4.000000
2,2,0,0x100000080,0,5.000000
"""
TIMEPROF = """\
layer_index,loading_begin,loading_end,loading_duration,computing_begin,computing_end,computing_duration
0,0.000000,0.000000,0.000000,0.000000,0.000000,0.000000
1,0.000000,2.000000,2.000000,2.000000,5.000000,3.000000
2,5.000000,5.000000,0.000000,5.000000,6.000000,1.000000
"""
PLAN = FlexnnPlan(
    (
        PlacedObject(MemoryObject("weight", 1, 2, 100), 1, 0),
        PlacedObject(MemoryObject("blob", 1, 3, 64), 1, 128),
        PlacedObject(MemoryObject("weight", 3, 4, 100), 2, 192),
        PlacedObject(MemoryObject("workspace", 3, 4, 32), 3, 0),
    ),
    (192,),
    (2, 4, 4, 4),
)
MALLOC = """\
# weight_count blob_count intermediate_count (persistent_count)
2 1 1 1
# weight_offsets
0
192
# blob_offsets
128
# intermediate_offsets
0
# persistent_offsets
192
"""
LAYOUT = "1,1,0,100,1,0\n1,2,128,64,1,1\n2,3,192,100,3,0\n3,3,0,32,3,2\n"


def test_a_profile_is_written_byte_by_byte_as_flexnn_does(tmp_path: Path) -> None:
    memory, times = write_flexnn_profile(PROFILE, tmp_path / "m")
    assert memory.read_text() == MEMPROF
    assert times.read_text() == TIMEPROF
    assert read_flexnn_profile(tmp_path / "m") == PROFILE


def test_a_plan_is_written_byte_by_byte_as_flexnn_does(tmp_path: Path) -> None:
    malloc, dependency, layout = write_flexnn_plan(PLAN, tmp_path / "m")
    assert malloc.read_text() == MALLOC
    assert dependency.read_text() == "2\n4\n4\n4\n"
    assert layout.read_text() == LAYOUT
    assert read_flexnn_plan(tmp_path / "m") == PLAN
    assert PLAN.peak_bytes == 292


def write_profile_texts(folder: Path, memprof: str = MEMPROF, timeprof: str = TIMEPROF) -> Path:
    (folder / "m.memprof").write_text(memprof)
    (folder / "m.timeprof").write_text(timeprof)
    return folder / "m"


def write_plan_texts(
    folder: Path, malloc: str = MALLOC, dependency: str = "2\n4\n4\n4\n", layout: str = LAYOUT
) -> Path:
    (folder / "m.malloc").write_text(malloc)
    (folder / "m.dependency").write_text(dependency)
    (folder / "m.layout").write_text(layout)
    return folder / "m"


def test_what_flexnns_reader_lets_pass_passes(tmp_path: Path) -> None:
    text = "# a comment\r\n" + MEMPROF.replace("\n", "\r\n") + "2,1,0,0x9,0,1.5\n2,1,0,(nil),0,1667000000000.25\n"
    assert read_flexnn_profile(write_profile_texts(tmp_path, text)) == PROFILE


@pytest.mark.parametrize(
    ("memprof", "complaint"),
    [
        (MEMPROF.replace(",164,", ",-164,"), "is not a line of a .memprof file"),
        (MEMPROF.replace("\n1,1,1", "\n1,7,1"), ":3: '1,7,1"),
        (MEMPROF.replace("\n2,2,1", "\n9,2,1"), "m.memprof:5: layer 9 of 3"),
        (MEMPROF.replace(",1064,", ",99999999999999999999,"), "is not a line"),
        (MEMPROF.replace(",1064,", ",2147483648,"), "end at 2 GiB"),
        (MEMPROF.replace("0x100000040,564", "0x100000000,564"), ":3: 0x100000000 is allocated twice"),
        (MEMPROF.replace("2,1,0,0x100000040", "0,1,0,0x100000040"), ":6: freed in layer 0, before it is allocated"),
        (MEMPROF.rsplit("\n", 2)[0], "1 allocations are never freed"),
        (MEMPROF.replace(",1064,", ",1_064,"), "is not a line"),
        (MEMPROF.replace(",1064,", ",\u0661\u0660,"), "not a text file"),
        (MEMPROF + "1" * 10_000, "more than 255 characters"),
        (MEMPROF + "\0", "is not a line"),
        (MEMPROF.replace("5.000000", "nan"), "is not a line"),
    ],
)
def test_a_hostile_memprof_is_one_sentence(memprof: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as error:
        read_flexnn_profile(write_profile_texts(tmp_path, memprof))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("timeprof", "complaint"),
    [
        (TIMEPROF.replace("\n2,5", "\n3,5"), "layer 3 where 2 is due"),
        (TIMEPROF.replace("2.000000,2.000000,2.000000", "2.000000,-2.000000,2.000000"), "negative"),
        (TIMEPROF.replace("1.000000", "1e999"), "is not a line"),
        ("".join(f"{i},0,0,0,0,0,0\n" for i in range(16_385)), "16384 layers at most"),
    ],
)
def test_a_hostile_timeprof_is_one_sentence(timeprof: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=complaint):
        read_flexnn_profile(write_profile_texts(tmp_path, timeprof=timeprof))


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"malloc": MALLOC.replace("2 1 1 1", "9999999999 1 1 1")}, "5 offsets where its first line counts"),
        ({"malloc": MALLOC.replace("2 1 1 1", "two")}, "m.malloc:2: 'two'"),
        ({"malloc": ""}, "is not 'weights blobs workspaces"),
        ({"malloc": MALLOC.replace("\n128\n", "\n-128\n")}, "is not an offset"),
        ({"malloc": MALLOC.replace("\n128\n", "\n99999999999\n")}, "is not an offset"),
        ({"malloc": MALLOC.replace("\n128\n", "\n64\n")}, "blob offsets are not those of the .layout"),
        ({"dependency": "2\n4\n3\n4\n"}, "smaller than the one before"),
        ({"dependency": "2\n4\n4\n5\n"}, "larger than the 4 layers"),
        ({"dependency": "2\n2\n"}, "of 2 are out of order"),
        ({"layout": LAYOUT.replace("2,3,192,100,3", "3,3,192,100,2")}, "out of order"),
        ({"layout": LAYOUT.replace(",192,", ",2147483647,")}, "beyond 2 GiB"),
        ({"layout": LAYOUT.replace("3,3,0,32,3,2", "3,3,0,32,3,3")}, "is not a line of a .layout file"),
    ],
)
def test_a_hostile_plan_is_one_sentence(texts: dict[str, str], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as error:
        read_flexnn_plan(write_plan_texts(tmp_path, **texts))
    assert complaint in str(error.value)


def test_what_is_missing_or_no_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        read_flexnn_profile(tmp_path / "missing")
    prefix = write_profile_texts(tmp_path)
    (tmp_path / "m.memprof").unlink()
    (tmp_path / "m.memprof").mkdir()
    with pytest.raises(ProfileError, match="no file"):
        read_flexnn_profile(prefix)
    with (tmp_path / "m.timeprof").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ProfileError, match="larger than any"):
        read_flexnn_profile(prefix)


def test_flexnns_limits_are_kept_when_writing(tmp_path: Path) -> None:
    large = FlexnnProfile((MemoryObject("weight", 0, 1, 1 << 31),), (LayerTime(0, 0),))
    with pytest.raises(ProfileError, match="2 GiB"):
        write_flexnn_profile(large, tmp_path / "m")
    far = FlexnnPlan((PlacedObject(MemoryObject("weight", 0, 1, 100), 0, (1 << 31) - 50),), (), (1,))
    with pytest.raises(PlanError, match="2 GiB"):
        write_flexnn_plan(far, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


memory_objects = st.builds(
    lambda kind, begin, length, size: MemoryObject(kind, begin, min(begin + length, 12), size),
    st.sampled_from(KINDS),
    st.integers(0, 11),
    st.integers(1, 12),
    st.integers(0, (1 << 31) - 1),
)
microseconds = st.integers(0, 10**9).map(lambda count: count / 1e3 / 1e3)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    objects=st.lists(memory_objects, max_size=20),
    times=st.lists(st.tuples(microseconds, microseconds), min_size=12, max_size=12),
)
def test_any_profile_survives_writing_and_reading(
    objects: list[MemoryObject], times: list[tuple[float, float]], tmp_path: Path
) -> None:
    ordered = tuple(sorted(objects, key=lambda one: one.begin))
    written = FlexnnProfile(ordered, tuple(LayerTime(*pair) for pair in times))
    write_flexnn_profile(written, tmp_path / "m")
    read = read_flexnn_profile(tmp_path / "m")
    assert read.objects == written.objects
    for one, other in zip(read.times, written.times, strict=True):
        assert one.load_seconds == pytest.approx(other.load_seconds, abs=1e-9)
        assert one.compute_seconds == pytest.approx(other.compute_seconds, abs=1e-9)


@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.binary(max_size=200),
    suffix=st.sampled_from(["memprof", "timeprof", "malloc", "dependency", "layout"]),
    data=st.data(),
)
def test_damaged_files_are_read_or_refused(noise: bytes, suffix: str, data: st.DataObject, tmp_path: Path) -> None:
    write_profile_texts(tmp_path)
    prefix = write_plan_texts(tmp_path)
    path = tmp_path / f"m.{suffix}"
    whole = path.read_bytes()
    begin = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(begin, len(whole)))
    path.write_bytes(whole[:begin] + noise + whole[end:])
    for read in (read_flexnn_profile, read_flexnn_plan):
        with contextlib.suppress(FlexnnError):
            read(prefix)


def test_loading_waits_for_what_it_overwrites() -> None:
    """Layer 3's weights take their place from layer 2 on: nothing of layer 3 is loaded before layer 1 is done."""
    assert layer_dependencies(PLAN.placed, 4) == (2, 4, 4, 4)
    later = PlacedObject(MemoryObject("weight", 3, 4, 100), 3, 192)
    assert layer_dependencies([later], 5) == (2, 3, 5, 5, 5)


def test_a_load_begins_when_it_is_allowed() -> None:
    times = [LayerTime(0, 0), LayerTime(2, 1), LayerTime(3, 5), LayerTime(4, 1)]
    assert predicted_seconds(times, (2, 4, 4, 4)) == (2 + 1) + 3 + 5 + 1  # the last load hides behind layer 2
    assert predicted_seconds(times, (4, 4, 4, 4)) == 2 + 3 + 5 + 1
    assert predicted_seconds(times, (2, 3, 4, 4)) == 2 + 1 + 3 + 5 + 4 + 1  # nothing hides


def test_our_profile_as_flexnns() -> None:
    found = to_flexnn_profile(small_profile())
    assert found.times[0] == LayerTime(0.0, 0.0)  # the Input
    assert found.times[1].load_seconds == pytest.approx(0.002 + 10_000 * 1e-7)
    assert found.times[1].compute_seconds == pytest.approx(0.010)
    assert [(one.kind, one.begin, one.end, one.size_bytes - 64) for one in found.objects] == [
        ("weight", 1, 2, 10_000),
        ("weight", 1, 2, 40_000),
        ("blob", 1, 3, 8_000),
        ("workspace", 1, 2, 2_000),
        ("blob", 2, 4, 2_000),
        ("weight", 3, 4, 1_000),
        ("blob", 3, 4, 400),
    ]


def test_workspace_is_what_was_allocated_and_what_loading_needs_beyond() -> None:
    kernel = profiles.cost(
        kept_bytes=100, load_peak_bytes=1100, run_heap_bytes=50, events=(300, 200, -200, 200, -300, -200)
    )
    found = to_flexnn_profile(profiles.model(profiles.layer("conv", "in", raw_bytes=64, kernels=(kernel,))))
    workspaces = [one.size_bytes for one in found.objects if one.kind == "workspace"]
    assert workspaces == [300 + 64, 200 + 64, 200 + 64, 300 + 64], "the last is what loading needs beyond"


def test_flexnns_profile_can_be_planned_for_by_ours(tmp_path: Path) -> None:
    write_flexnn_profile(to_flexnn_profile(small_profile()), tmp_path / "m")
    work = workload(from_flexnn_profile(read_flexnn_profile(tmp_path / "m")))
    decided = schedule(work, 80_000, 0)
    # ours never misses weights that could stay
    assert decided.kept_bytes == 10_064 + 40_064 + 1_064
    assert decided.predicted_seconds == pytest.approx(schedule(work, 200_000, 0).predicted_seconds)
    assert 10_000 <= work.blob_bytes <= 10_400


def test_our_plan_as_flexnns_holds_nothing_twice(tmp_path: Path) -> None:
    work = small_workload()
    for budget_bytes in (20_000, 1_000_000):
        decided = schedule(work, budget_bytes, BASE_BYTES)
        plan = to_flexnn_plan(decided)
        write_flexnn_plan(plan, tmp_path / "m")
        assert read_flexnn_plan(tmp_path / "m") == plan
        for number, one in enumerate(plan.placed):
            for other in plan.placed[number + 1 :]:
                apart = one.memory.end <= other.memory.begin or other.memory.end <= one.memory.begin
                above = one.offset_bytes >= other.offset_bytes + other.memory.size_bytes
                below = one.offset_bytes + one.memory.size_bytes <= other.offset_bytes
                assert apart or above or below
        assert len(plan.persistent) == sum(choice is not None and choice.kept_bytes > 0 for choice in decided.chosen)
        assert plan.peak_bytes <= decided.predicted_peak_bytes - BASE_BYTES + 64 * 5
