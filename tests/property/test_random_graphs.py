"""Whatever network, budget and choice of kernels: the executor answers what stock ncnn answers."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexnn_ncnn.records.options import RunOptions
from param_tools.encoding import Encoding
from tests.examples import examples
from tests.integration.pipeline import assert_close, budgets, prepared
from tests.property.random_graphs import Graph, graphs

# of the largest output: other kernels add up in another order, and an activation may clip what was large before
TOLERANCE = 1e-3
# InnerProduct keeps its weights in half precision then
HALF_TOLERANCE = 1e-2


@settings(max_examples=examples(300), deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(), st.data())
def test_any_plan_answers_what_stock_ncnn_answers(graph: Graph, data: st.DataObject) -> None:
    options = RunOptions(
        num_threads=data.draw(st.sampled_from([1, 1, 1, 2]), "threads"),
        packing=data.draw(st.booleans(), "packing"),
        fp16=data.draw(st.sampled_from([False, False, True]), "fp16"),
    )
    encoding = data.draw(st.sampled_from([None, None, Encoding.FP16, Encoding.TABLE]), "weights as")
    part_bytes = data.draw(st.sampled_from([20_000, 16_000_000]), "bytes of weights held while profiling")
    # what is worth choosing from depends on what was timed: hypothesis must not see how much that is
    chance = Random(data.draw(st.integers(0, 2**32 - 1), "seed of choices"))
    with prepared(
        graph.with_splits(), graph.feeds(), options, encoding=encoding, part_bytes=part_bytes, cut_all=True
    ) as found:
        stock = found.stock()
        tolerance = HALF_TOLERANCE if options.fp16 else TOLERANCE
        for budget_bytes in budgets(found.least_bytes, 2_000_000, 3):
            assert_close(found.run(found.plan(budget_bytes)), stock, tolerance)
            assert_close(found.run(found.plan_beside(budget_bytes), threaded=True), stock, tolerance)
        level = chance.randrange(len(found.levels))
        chosen = [chance.choice(choices) if choices else None for choices in found.levels[level].choices]
        assert_close(found.run(found.plan_of(chosen, level)), stock, tolerance)
