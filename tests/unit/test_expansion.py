"""Attention as the layers it consists of inside, and how profiles and plans keep track of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flexnn_ncnn.errors import PlanError, ProfileError
from flexnn_ncnn.planning.ablation import without_slicing
from flexnn_ncnn.planning.planner import schedule, smallest_budget, workload
from flexnn_ncnn.preparing.profile_part import profile_towards
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from flexnn_ncnn.records.profile_check import check_profile
from flexnn_ncnn.scheduling.exchange import to_flexnn_plan
from param_tools.expansion import can_expand, expansion
from param_tools.model_io import open_model
from tests.property.slicing_stock import model_of, write_random
from tests.unit import profiles
from tests.unit.test_slicing_rules import layer_of

SELF = "MultiHeadAttention it 1 1 in out 0=8 1=2 2=48 3=6 4=6"
CROSS = "MultiHeadAttention it 3 1 in keys mask out 0=8 1=2 2=48 3=5 4=5 5=1 6=0.25"


def network(line: str) -> list[str]:
    return [f"Input {blob} 0 1 {blob}" for blob in line.split()[4:-1] if "=" not in blob and blob != "out"] + [line]


@pytest.mark.parametrize(
    ("params", "inputs", "expands"),
    [
        ("0=8 1=2 2=64", 1, True),
        ("0=8 1=2 2=64 5=1", 4, True),
        ("0=8 1=2 2=64 5=1", 1, False),  # a mask and nothing else
        ("0=8 1=3 2=64", 1, False),
        ("0=8 1=2 2=64 6=0.0", 1, False),
        ("0=8 1=2 2=64 7=1", 3, False),
        ("0=8 1=2 2=64 18=2", 1, False),
    ],
)
def test_what_can_be_expanded(params: str, inputs: int, expands: bool) -> None:
    assert can_expand(layer_of(f"MultiHeadAttention {params}", inputs=inputs)) is expands


def test_other_layers_cannot() -> None:
    assert not can_expand(layer_of("Gemm 2=0 3=1 4=0 5=1 6=1 7=0 8=8 9=8 10=4"))


@pytest.mark.parametrize("line", [SELF, CROSS])
def test_weights_are_those_of_the_layer_where_they_lie(line: str, tmp_path: Path) -> None:
    model = model_of(network(line))
    write_random(model, tmp_path / "net.param", None)
    index = len(model.layers) - 1
    with open_model(tmp_path / "net.param") as opened:
        found = expansion(opened, index)
        mine = [array for arrays in found.weights.arrays for array in arrays]
        whole = opened.weights.arrays[index]
        assert [(one.offset_bytes, one.count, one.encoding) for one in mine] == [
            (one.offset_bytes, one.count, one.encoding) for one in whole
        ]
        for one, other in zip(mine, whole, strict=True):
            assert (found.weights.view(one).ravel() == opened.weights.view(other).ravel()).all()
    assert found.model.input_blobs == model.input_blobs
    assert found.model.output_blobs == ("out",)


def test_inputs_mask_and_scale_reach_where_they_belong(tmp_path: Path) -> None:
    model = model_of(network(CROSS))
    write_random(model, tmp_path / "net.param", None)
    with open_model(tmp_path / "net.param") as opened:
        layers = {layer.name: layer for layer in expansion(opened, len(model.layers) - 1).model.layers}
    assert [layers[f"it {side}"].inputs for side in "qkv"] == [("in",), ("keys",), ("keys",)]
    assert layers["it attention"].inputs[3:] == ("mask",)
    assert layers["it attention"].float_param(6) == 0.25


# in -> before -> attention (100 kB whole, 30 kB at a time inside) -> after
WHOLE = profiles.layer("attention", "before", raw_bytes=100_000, kernels=(profiles.cost(reads_raw=True),))


def inner(number: int, name: str, reads: str, writes: str = "", seconds: float = 1.0) -> LayerProfile:
    one = profiles.layer(name, reads, writes, raw_bytes=30_000, inner=number, index=1)
    return replace(one, kernels=(profiles.cost(reads_raw=True, compute_seconds=seconds),))


INNER = (inner(1, "q", "before"), inner(2, "out", "q", "attention"))
NETWORK = profiles.model(
    profiles.layer("before", "in"), WHOLE, profiles.layer("after", "attention"), expansions=(INNER,)
)


def test_inner_layers_run_where_the_whole_does_not_fit() -> None:
    work = workload(NETWORK)
    least, _ = smallest_budget(work, 0)
    assert 30_000 < least < 60_000
    small, large = schedule(work, least, 0), schedule(work, 300_000, 0)
    assert [one.name for one in small.workload.profile.layers] == ["before", "q", "out", "after"]
    assert large.workload.profile.layers == NETWORK.layers
    assert smallest_budget(workload(without_slicing(NETWORK)), 0)[0] > 100_000


def test_what_flexnns_files_have_no_place_for_is_not_exported() -> None:
    work = workload(NETWORK)
    small, large = schedule(work, smallest_budget(work, 0)[0], 0), schedule(work, 300_000, 0)
    assert len(to_flexnn_plan(large).placed) > len(NETWORK.layers)
    with pytest.raises(PlanError, match="what attention does inside") as refused:
        to_flexnn_plan(small)
    assert "larger --budget" in refused.value.hint


@pytest.mark.parametrize(("load_seconds", "steps"), [(0.05, 2), (0.3, 4)])
def test_where_both_fit_inner_layers_must_be_faster_by_more_than_noise(load_seconds: float, steps: int) -> None:
    whole = profiles.cost(reads_raw=True, compute_seconds=2.0, load_seconds=load_seconds)
    first, second = (replace(WHOLE, kernels=(whole,), name=name, outputs=(name,)) for name in ("first", "second"))
    network = profiles.model(replace(first, inputs=("in",)), replace(second, inputs=("first",)))
    inside = (
        (inner(1, "q0", "in"), inner(2, "out0", "q0", "first")),
        (inner(1, "q1", "first"), inner(2, "out1", "q1", "second")),
    )
    numbered = tuple(tuple(replace(one, index=index) for one in run) for index, run in enumerate(inside))
    work = workload(replace(network, expansions=numbered))
    assert len(schedule(work, 300_000, 0).chosen) == 2  # what stays needs no load
    assert len(schedule(work, 150_000, 0).chosen) == steps


def test_a_part_of_a_profile_keeps_the_inner_layers_of_its_layers() -> None:
    assert profile_towards(NETWORK, ("attention",)).expansions == (INNER,)
    assert profile_towards(NETWORK, ("before",)).expansions == ()


@pytest.mark.parametrize(
    ("expansions", "complaint"),
    [
        (((),), "a layer that is not there"),
        ((INNER, INNER), "a layer that is not there, or has some already"),
        (((inner(1, "q", "before", "attention"), replace(INNER[1], index=0)),), "has others' inner layers"),
        (((replace(INNER[0], inner=0), INNER[1]),), "has others' inner layers"),
        (((inner(1, "q", "in", "attention"),),), "reads a blob that nothing writes"),
        (((inner(1, "q", "before"),),), "do not write its output"),
        (((inner(1, "after", "before"), inner(2, "out", "after", "attention")),), "writes another's blob"),
        (((replace(INNER[0], raw_bytes=-1), INNER[1]),), "odd cost"),
    ],
)
def test_inner_layers_that_cannot_be_planned_for(
    expansions: tuple[tuple[LayerProfile, ...], ...], complaint: str
) -> None:
    check_profile(NETWORK)
    with pytest.raises(ProfileError, match=complaint):
        check_profile(replace(NETWORK, expansions=expansions))


def test_an_inner_layer_among_the_networks_own_is_refused() -> None:
    bare: ModelProfile = replace(NETWORK, expansions=())
    layers = (NETWORK.layers[0], replace(WHOLE, inner=3), NETWORK.layers[2])
    with pytest.raises(ProfileError, match="inner layer outside"):
        check_profile(replace(bare, layers=layers))
