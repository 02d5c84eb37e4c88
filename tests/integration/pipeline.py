"""Small models through the pipeline - profile, plan, execute - and through stock ncnn; for the tests of the runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import BudgetError
from flexnn_ncnn.planning import simulate
from flexnn_ncnn.planning.choices import Choice, _all
from flexnn_ncnn.planning.outcome import schedule_of
from flexnn_ncnn.planning.planner import Workload, schedule, smallest_budget, workload
from flexnn_ncnn.planning.validate import validate_plan
from flexnn_ncnn.preparing.assemble import assemble_plan
from flexnn_ncnn.profiling import cutting
from flexnn_ncnn.profiling.expansions import with_expansions
from flexnn_ncnn.profiling.profiler import ProfileLimits, profile_model
from flexnn_ncnn.records.capabilities import STOCK
from flexnn_ncnn.records.options import RunOptions
from flexnn_ncnn.records.plan import Plan, Step
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from flexnn_ncnn.runtime.executor import Executor
from flexnn_ncnn.runtime.native import StockNet
from param_tools.encoding import Encoding
from param_tools.graph import Model
from param_tools.model_io import NcnnModel, open_model
from tests.property.slicing_stock import model_of, write_random

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

AMPLE_BYTES = 2_000_000_000
"""A budget that holds every test model several times over."""

# the profiler's thresholds below which cutting a layer is not worth measuring
_CUT_FROM = ("_SLICE_FROM_BYTES", "_CUT_CHANNELS_FROM_BYTES", "_SLABS_FROM_BYTES")


@dataclass(frozen=True)
class Prepared:
    """A profiled model, ready to be planned for any budget."""

    opened: NcnnModel
    options: RunOptions
    inputs: Arrays
    profile: ModelProfile
    work: Workload

    @property
    def least_bytes(self) -> int:
        """The smallest budget that works, code and Python objects left out."""
        return smallest_budget(self.work, 0)[0]

    def plan(self, budget_bytes: int = AMPLE_BYTES) -> Plan:
        return self._valid(assemble_plan(self.opened, schedule(self.work, budget_bytes, 0)))

    @property
    def levels(self) -> tuple[Workload, ...]:
        """The layers one by one, and joined to ever more chains; then the same with what layers do inside."""
        return (self.work, *self.work.chained)

    def plan_of(self, chosen: Sequence[Choice | None], level: int = 0) -> Plan:
        """A plan with a choice of the test's own for every layer."""
        decided = schedule_of(self.levels[level], chosen, AMPLE_BYTES, 0)
        return self._valid(assemble_plan(self.opened, decided))

    def _valid(self, plan: Plan) -> Plan:
        validate_plan(plan, self.opened.bin_path.stat().st_size)
        return plan

    def plan_beside(self, budget_bytes: int) -> Plan:
        """A plan with loads beside computing wherever that is faster, if it costs computing nothing."""
        with mock.patch.multiple(simulate, HANDOVER_SECONDS=0.0, SLOWED_SHARE=0.0):
            work = workload(self.profile, replace(STOCK, cpus_beside=1 + self.options.num_threads))
            return self._valid(assemble_plan(self.opened, schedule(work, budget_bytes, 0)))

    def run(self, plan: Plan, inputs: Arrays | None = None, *, threaded: bool | None = None) -> dict[str, Array]:
        with Executor(plan, self.opened.bin_path, threaded=threaded) as executor:
            return executor.run(self.inputs if inputs is None else inputs)

    def stock(self, param_path: Path | None = None, inputs: Arrays | None = None) -> dict[str, Array]:
        """What stock ncnn answers, from the same .param or from another one for the same .bin."""
        path = self.opened.param_path if param_path is None else param_path
        return stock_outputs(path, self.opened.bin_path, self.options, inputs or self.inputs, self.profile.outputs)

    def choice(self, index: int, kernel: str = "default", *, resident: bool = True) -> Choice | None:
        """A layer as a whole, by a kernel if it has that one."""
        layer = self.profile.layers[index]
        ways = [
            way
            for way in _all(layer, 0.0)
            if way.resident == (resident or not layer.raw_bytes) and way.part_units >= layer.units and not way.slab_rows
        ]
        return next((way for way in ways if way.kernel == kernel), ways[0] if ways else None)

    def layer(self, name: str) -> LayerProfile:
        (found,) = (layer for layer in self.profile.layers if layer.name == name)
        return found


def stock_outputs(
    param_path: Path, bin_path: Path, options: RunOptions, inputs: Arrays, outputs: Sequence[str]
) -> dict[str, Array]:
    net = StockNet(str(param_path), str(bin_path), options)
    try:
        return net.run(inputs, outputs)
    finally:
        net.close()


@contextmanager
def prepared_files(
    param_path: Path,
    inputs: Arrays,
    options: RunOptions | None = None,
    *,
    part_bytes: int = 16_000_000,
    cut_all: bool = False,
) -> Iterator[Prepared]:
    """Profiles a .param with the .bin beside it; `cut_all` tries slices and slabs of layers that are too small too."""
    options = options or RunOptions()
    limits = ProfileLimits(part_bytes, least_rounds=1, most_rounds=1)
    with open_model(param_path) as opened:
        thresholds = {name: 1 if cut_all else getattr(cutting, name) for name in _CUT_FROM}
        with mock.patch.multiple(cutting, **thresholds):
            profile = with_expansions(profile_model(opened, "model", None, inputs, options, limits), opened, limits)
        yield Prepared(opened, options, inputs, profile, workload(profile))


@contextmanager
def prepared(
    layers: Sequence[str] | Model,
    inputs: Arrays,
    options: RunOptions | None = None,
    *,
    encoding: Encoding | None = None,
    part_bytes: int = 16_000_000,
    cut_all: bool = False,
) -> Iterator[Prepared]:
    """Profiles the model of these .param lines with seeded random weights."""
    model = layers if isinstance(layers, Model) else model_of(layers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.param")
        write_random(model, path, encoding)
        with prepared_files(path, inputs, options, part_bytes=part_bytes, cut_all=cut_all) as found:
            yield found


def feed(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Seeded normal values, outermost dimension first."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(found: Arrays, wanted: Arrays, tolerance: float) -> None:
    """Every output agrees within `tolerance` of its largest magnitude; 0 asks for the same bits."""
    assert found.keys() == wanted.keys()
    for blob, right in wanted.items():
        assert found[blob].shape == right.shape, blob
        if tolerance == 0:
            np.testing.assert_array_equal(found[blob], right, blob)
            continue
        largest = float(np.abs(right[np.isfinite(right)]).max(initial=0))
        np.testing.assert_allclose(found[blob], right, 0, tolerance * max(largest, 1e-30), err_msg=blob)


def step_of(plan: Plan, name: str) -> Step:
    (found,) = (step for step in plan.steps if step.name == name)
    return found


def budgets(least_bytes: int, most_bytes: int, count: int) -> list[int]:
    """Budgets from the smallest that works to one that holds everything, evenly in ratio."""
    return [int(value) for value in np.geomspace(least_bytes + 1, max(most_bytes, least_bytes + 2), count)]


def is_refused(found: Prepared, budget_bytes: int) -> bool:
    try:
        found.plan(budget_bytes)
    except BudgetError:
        return True
    return False
