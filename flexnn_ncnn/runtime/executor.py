"""Runs a plan: loads, computes and releases as it says, and decides nothing itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.errors import ModelChangedError
from flexnn_ncnn.records.plan import Part, Plan, Stage, Step
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.gather import gathered_rows
from flexnn_ncnn.runtime.inputs import checked_inputs
from flexnn_ncnn.runtime.interrupts import deferred_signals
from flexnn_ncnn.runtime.memory import heap
from flexnn_ncnn.runtime.memory.blob_memory import LIST_MODES, Blob, output_mat
from flexnn_ncnn.runtime.memory.pages import release_pages
from flexnn_ncnn.runtime.memory.returns import arena_pages, returning
from flexnn_ncnn.runtime.slabs import forward_chain
from flexnn_ncnn.runtime.step_actions import (
    Action,
    Mats,
    Run,
    joined_action,
    overlay_action,
    parts_action,
    split_action,
)
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.weights.file_watch import FileWatch
from flexnn_ncnn.runtime.weights.makers import Maker, Makers
from flexnn_ncnn.runtime.weights.origin import serves
from flexnn_ncnn.runtime.weights.resident import ResidentLayers, resident_key, resident_keys
from flexnn_ncnn.runtime.weights.streaming import StreamedLayer, Streaming
from flexnn_ncnn.runtime.weights.weight_source import WeightSource

__all__ = ["Executor"]

_MAKE_AGAIN = "open the model again: its plan is made anew"


class Executor:
    """A loaded plan; `run` it as often as you like, from one thread at a time.

    Args:
        plan: what to do.
        bin_path: the weights.
        kept: layers that another executor loaded: those the plan wants are taken, the others closed.
        threaded: whether streamed layers are loaded by a thread of their own; by default where the plan has them loaded
            ahead and such a thread can run.
        room_bytes: how much page cache there may be for streamed weights; None for no limit.

    Attributes:
        overflows: number of a step -> how many bytes its scratch is too small, where it is.

    Raises:
        ModelFormatError: the file cannot be read, or is not the plan's.
        ModelChangedError: the plan has transformed weights of what the file was before.
        NcnnError: ncnn refuses a layer.
    """

    def __init__(
        self,
        plan: Plan,
        bin_path: str | os.PathLike[str],
        kept: ResidentLayers | None = None,
        *,
        threaded: bool | None = None,
        room_bytes: int | None = None,
    ) -> None:
        self.plan = plan
        self.trace = Trace()
        self.overflows: dict[int, int] = {}
        self._kept = kept or ResidentLayers()
        with heap.shrinking():
            self._kept.keep_only(resident_keys(plan))
        self._source = WeightSource(bin_path, plan.transformed_path, plan.page_cache)
        self._watch = FileWatch(bin_path, self._source.file_descriptor)
        if not serves(plan, bin_path):
            self._source.close()
            raise ModelChangedError("changed since its weights were transformed", path=bin_path, hint=_MAKE_AGAIN)
        self._arena = arena_pages(plan)
        self._scratch = native.ScratchAllocator(self._arena)
        can = native.capabilities()
        if threaded is None:
            threaded = can.loads_beside(plan.options.num_threads) and any(
                part.ahead > 1 for step in plan.steps for part in step.parts
            )
        self._lets_others_run = threaded and can.unlocks_calls
        self._makers = Makers(plan, self._lets_others_run)
        self._options = self._makers.options
        # to compute with: what layers allocate then comes from the arena
        self._run_options = {k: self._scratch.attach(native.make_option(plan.options, k)) for k in self._options}
        elsewhere = {blob for step in plan.steps if not self._calls_back(step.type) for blob in step.outputs}
        self._blobs = {
            p.blob: Blob(self._arena, p.offset_bytes, p.layout, None if p.blob in elsewhere else self._scratch)
            for p in plan.placements
        }
        self._resident = ResidentLayers()
        self._streaming = Streaming(
            plan, self._source, self.trace, threaded, room_bytes, lambda: self._reserve.ensure_whole()
        )
        with heap.return_freed_memory(), heap.plugged():
            self._actions = [self._compile(number, step) for number, step in enumerate(plan.steps)]
        heap.keep_freed_memory()
        self._reserve = heap.Reserve(plan.heap_bytes)
        self._streaming.start()

    @property
    def overflow_bytes(self) -> int:
        """Most bytes at once that layers allocated beyond what the plan gives them; 0 where it is right."""
        return self._scratch.overflow_bytes

    def run(
        self, inputs: Mapping[str, npt.NDArray[Any]], hand_out: native.HandOut = native.mat_to_array
    ) -> dict[str, Any]:
        """One inference.

        Args:
            inputs: an array per input blob, of the plan's shape; float32 or int32.
            hand_out: makes of an output, which the next inference overwrites, what the caller gets.

        Returns:
            The outputs by blob name, by default as unpacked float32 arrays.

        Raises:
            InputError: an input is missing, unknown, or has another shape or dtype than planned.
            ModelChangedError: the .bin is not what it was, before or after.
            ModelFormatError: it cannot be read.
        """
        begin = time.perf_counter()
        self.trace.restart()
        arrays = checked_inputs(self.plan.inputs, inputs)
        mats = {blob: native.mat_from_array(array) for blob, array in arrays.items()}
        try:
            self._watch.check()
            with deferred_signals() as run_handlers:
                for action in self._actions:
                    action(mats)
                    run_handlers()
            self._watch.check_contents()
        except BaseException:
            self._streaming.abort()
            raise
        forget = self._forget if len(self.plan.outputs) == 1 else None  # several may be one memory
        results = {blob: hand_out(mats[blob], self.plan.options.bf16, forget) for blob in self.plan.outputs}
        self.trace.seconds = time.perf_counter() - begin
        return results

    def _forget(self, begin_address: int, end_address: int) -> None:
        """Give back pages of a large output as the caller gets its copy, or both would be held."""
        begin = begin_address - int(self._arena.ctypes.data)
        release_pages(self._arena, begin, begin + end_address - begin_address)

    def hand_over(self) -> ResidentLayers:
        """Close everything but the layers that are kept between inferences: those are the caller's now."""
        kept, self._resident = self._resident, ResidentLayers()
        kept.detach()
        self.close()
        return kept

    def close(self) -> None:
        """Free weights, arena and file, and give the memory back to the system; closing twice is fine."""
        self._actions = []
        with heap.shrinking():
            self._streaming.close()
            self._resident.close()
        self._blobs, self._run_options = {}, {}
        self._arena = np.empty(0, np.uint8)
        self._scratch = native.ScratchAllocator(self._arena)
        self._source.close()
        self._reserve.close()
        heap.trim()

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _calls_back(self, layer_type: str) -> bool:
        return native.may_call_back(layer_type, self.plan.options.num_threads)

    def _compile(self, number: int, step: Step) -> Action:
        """The step as a function of the blobs that exist."""
        action, scratch, overflows = self._action(step), self._scratch, self.overflows
        offset_bytes, size_bytes = step.scratch_offset_bytes, step.scratch_bytes
        give_back = returning(self.plan, number, self._arena)

        def compiled(mats: Mats) -> None:
            if give_back is not None:
                give_back()
            scratch.use(offset_bytes, size_bytes)
            action(mats)
            if scratch.missing_bytes:
                overflows[number] = max(scratch.missing_bytes, overflows.get(number, 0))
                scratch.missing_bytes = 0

        return compiled

    def _action(self, step: Step) -> Action:
        if step.mode == "constant":
            return self._constant(step)
        if step.mode == "gather":
            return self._gather(step)
        if step.mode == "join":
            return joined_action(step, self._blobs[step.outputs[0]])
        if step.mode == "alias" and not step.parts:
            return split_action(step)
        compute = self._chain(step) if step.mode == "chain" else self._compute(step)
        copies = [(a, b) for a, b in zip(step.inputs, step.sources, strict=True) if a != b]
        if not copies:
            return compute
        option = self._options["default"]
        prepared = [(blob, name, self._blobs[name].mat) for blob, name in copies]

        def with_copies(mats: Mats) -> None:
            for blob, name, target in prepared:
                native.convert(mats[blob], target, option)
                mats[name] = target
            compute(mats)

        return with_copies

    def _compute(self, step: Step) -> Action:
        runs = [self._runner(step, part) for part in step.parts]
        if step.slabs or (step.blob_axis and len(step.parts) > 1):
            whole = self._blobs[step.outputs[0]]
            spans = [(part.begin, part.end) for part in step.parts]
            if len(spans) == 1:
                spans = [(0, whole.layout.packed_extent)]
            targets = [whole.part(step.blob_axis or "c", begin, end) for begin, end in spans]
            placed = self._blobs.get(step.sources[0])
            return parts_action(step, runs, targets, whole, placed, self._run_options["default"])
        (run,) = runs
        source = step.sources[0] if step.sources else ""
        if step.mode == "overlay":
            return overlay_action(step, run, self._scratch if self._calls_back(step.type) else None)
        if step.mode in LIST_MODES:
            return self._list(step, run)
        (output,) = step.outputs
        if step.mode == "inplace":

            def inplace(mats: Mats) -> None:
                mat = mats[source]
                run(lambda loaded: loaded.forward_inplace(mat))
                mats[output] = mat

            return inplace
        if step.mode == "alias":

            def alias(mats: Mats) -> None:
                top = native.empty_mat()
                run(lambda loaded: loaded.forward(mats[source], top))
                mats[output] = top

            return alias
        top = self._blobs[output].mat
        if step.mode == "fresh":

            def fresh(mats: Mats) -> None:
                own = native.empty_mat()
                run(lambda loaded: loaded.forward(mats[source], own))
                native.copy_blob(own, top)
                mats[output] = top

            return fresh

        def forward(mats: Mats) -> None:
            run(lambda loaded: loaded.forward(mats[source], top))
            mats[output] = top

        return forward

    def _chain(self, step: Step) -> Action:
        """Layers computed slab by slab, all of them loaded meanwhile."""
        (output,), (source,) = step.outputs, step.sources
        top, option = self._blobs[output].mat, self._run_options["default"]
        stages = list(zip(step.stages, step.parts, strict=True))
        if step.resident:
            kept = [self._resident_layer(stage, part) for stage, part in stages]

            def resident(mats: Mats) -> None:
                self._reserve.ensure_whole()
                forward_chain(kept, step.stages, mats[source], top, option)
                mats[output] = top

            return resident
        load, streaming = self._streamed(stages), self._streaming

        def chain(mats: Mats) -> None:
            forward_chain(streaming.acquire(load).layers, step.stages, mats[source], top, option)
            streaming.release(load)
            mats[output] = top

        return chain

    def _resident_layer(self, owner: Step | Stage, part: Part) -> native.LoadedLayer:
        """The part's layer for as long as the executor lives: handed over, or loaded."""
        key = resident_key(self.plan, owner, part)
        layer = self._kept.take(key)
        if layer is None:
            layer = self._maker(owner, part)(self._source.load(part.pieces))
        else:
            layer.compute_with(self._run_option(owner), owner.name, lets_others_run=self._lets_others_run)
        self._resident.put(key, layer)
        return layer

    def _maker(self, owner: Step | Stage, part: Part) -> Maker:
        return self._makers.of(owner, part, self._run_option(owner))

    def _streamed(
        self, layers: Sequence[tuple[Step | Stage, Part]], scratch: npt.NDArray[np.uint8] | None = None
    ) -> int:
        """Layers that are loaded together in each inference, as the number of that load."""
        parts = [part for _, part in layers]
        makers = [self._maker(owner, part) for owner, part in layers]
        in_place = [bool(owner.reads_raw or part.transformed_count) for owner, part in layers]
        return self._streaming.add(parts, makers, any(in_place), all(in_place), scratch)

    def _run_option(self, owner: Step | Stage) -> native.Option:
        return (self._run_options if self._calls_back(owner.type) else self._options)[owner.kernel]

    def _list(self, step: Step, run: Run) -> Action:
        blobs = [self._blobs[name] for name in step.outputs]
        tops = [output_mat(blob, step.mode) for blob in blobs]

        def compute(mats: Mats) -> None:
            bottoms = [mats[name] for name in step.sources]
            run(lambda loaded: loaded.forward_list(bottoms, tops))
            for name, blob in zip(step.outputs, blobs, strict=True):
                mats[name] = blob.mat

        return compute

    def _runner(self, step: Step, part: Part) -> Run:
        """A function that has the part loaded while it calls another."""
        if step.resident:
            kept = self._resident_layer(step, part)
            if not part.pieces:
                return lambda call: call(kept)

            def resident(call: Callable[[native.LoadedLayer], None]) -> None:
                self._reserve.ensure_whole()
                call(kept)

            return resident
        scratch = None
        if step.reads_to_scratch:
            scratch = self._arena[step.scratch_offset_bytes :][: step.scratch_bytes]
        return StreamedLayer(self._streaming, self._streamed([(step, part)], scratch))

    def _constant(self, step: Step) -> Action:
        (part,), (output,) = step.parts, step.outputs
        blob = self._blobs[output]

        def constant(mats: Mats) -> None:
            begin = time.perf_counter()
            native.fill_blob(blob.mat, self._source.load(part.pieces)[0])
            self.trace.loaded(part.pieces[0].stored_bytes, time.perf_counter() - begin)
            mats[output] = blob.mat

        return constant

    def _gather(self, step: Step) -> Action:
        (part,), (output,) = step.parts, step.outputs
        top, option, run_option = self._blobs[output].mat, self._options["default"], self._run_options["default"]

        def gather(mats: Mats) -> None:
            begin = time.perf_counter()
            ids = native.mat_to_array(mats[step.inputs[0]])
            arrays, params, renumbered = gathered_rows(self._source, part, ids)
            loaded = native.LoadedLayer(step.type, native.make_params(params), arrays, option, step.name, run_option)
            self.trace.loaded(sum(array.nbytes for array in arrays), time.perf_counter() - begin)
            loaded.forward(native.mat_from_array(renumbered), top)
            loaded.close()
            mats[output] = top

        return gather
