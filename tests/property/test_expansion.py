"""Attention run as what it consists of inside, by real ncnn: near what the layer as a whole answers."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.records.options import RunOptions
from tests.examples import examples
from tests.integration.pipeline import assert_close, budgets, prepared
from tests.property.slicing_cases import Case, attentions

# of the largest output: sums in another order; with fp16 InnerProduct and Gemm round weights and blobs
TOLERANCE, HALF_TOLERANCE = 1e-5, 1e-2


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(attentions(), st.data())
def test_inner_layers_whole_and_cut_answer_what_the_layer_does(case: Case, data: st.DataObject) -> None:
    options = RunOptions(
        num_threads=data.draw(st.sampled_from([1, 2]), "threads"),
        packing=data.draw(st.booleans(), "packing"),
        fp16=data.draw(st.sampled_from([False, False, True]), "fp16"),
    )
    chance = Random(data.draw(st.integers(0, 2**32 - 1), "seed of choices"))
    with prepared(case.layers, case.feeds, options, encoding=case.encoding, cut_all=True) as found:
        stock = found.stock()
        tolerance = HALF_TOLERANCE if options.fp16 else TOLERANCE
        (inner,) = found.profile.expansions
        assert {one.type for one in inner} == {"Gemm", "Reshape", "Permute", "SDPA"}
        assert len(found.levels) == 2
        for way in found.levels[1].choices:
            assert way
        smallest = [choices[-1] for choices in found.levels[1].choices]
        drawn = [chance.choice(choices) for choices in found.levels[1].choices]
        for chosen in (smallest, drawn):
            assert_close(found.run(found.plan_of(chosen, level=1)), stock, tolerance)
        for budget_bytes in budgets(found.least_bytes, 1_000_000, 2):
            assert_close(found.run(found.plan(budget_bytes)), stock, tolerance)
