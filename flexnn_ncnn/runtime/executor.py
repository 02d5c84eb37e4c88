"""Runs a plan: loads, computes and releases as it says, and decides nothing itself."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from flexnn_ncnn.layout import OVERREAD_BYTES
from flexnn_ncnn.plan import Part, Plan, Stage, Step
from flexnn_ncnn.runtime import heap, native
from flexnn_ncnn.runtime.blob_memory import LIST_MODES, Blob, PartTarget, output_mat
from flexnn_ncnn.runtime.gather import gathered_rows
from flexnn_ncnn.runtime.inputs import checked_inputs
from flexnn_ncnn.runtime.resident import ResidentLayers, resident_key, resident_keys
from flexnn_ncnn.runtime.slabs import SlabViews, forward_chain, forward_slabs, slab_views
from flexnn_ncnn.runtime.trace import Trace
from flexnn_ncnn.runtime.weight_source import WeightSource

__all__ = ["Executor"]

_Mats = dict[str, native.Mat]
_Action = Callable[[_Mats], None]


class Executor:
    """A loaded plan; `run` it as often as you like, from one thread at a time.

    Args:
        plan: what to do.
        bin_path: the weights.
        kept: layers that another executor loaded: those the plan wants are taken, the others closed.

    Raises:
        ModelFormatError: the file cannot be read, or is not the plan's.
        NcnnError: ncnn refuses a layer.
    """

    def __init__(self, plan: Plan, bin_path: str | os.PathLike[str], kept: ResidentLayers | None = None) -> None:
        self.plan = plan
        self.trace = Trace()
        self._kept = kept or ResidentLayers()
        self._kept.keep_only(resident_keys(plan))
        self._source = WeightSource(bin_path)
        self._arena = _arena(plan.arena_bytes)
        self._scratch = native.ScratchAllocator(self._arena)
        # one Option per kernel to load and one to compute with: a layer only reads them
        kernels = {"default", *(step.kernel for step in plan.steps)}
        self._options = {kernel: native.make_option(plan.options, kernel) for kernel in kernels}
        self._run_options = {k: self._scratch.attach(native.make_option(plan.options, k)) for k in kernels}
        elsewhere = {blob for step in plan.steps if not self._calls_back(step.type) for blob in step.outputs}
        self._blobs = {
            p.blob: Blob(self._arena, p.offset_bytes, p.layout, None if p.blob in elsewhere else self._scratch)
            for p in plan.placements
        }
        self._resident = ResidentLayers()
        with heap.return_freed_memory():
            self._actions = [self._compile(step) for step in plan.steps]
        heap.keep_freed_memory()
        self._reserve = heap.Reserve(plan.heap_bytes)

    @property
    def overflow_bytes(self) -> int:
        """Most bytes at once that layers allocated beyond what the plan gives them; 0 where it is right."""
        return self._scratch.overflow_bytes

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """One inference.

        Args:
            inputs: an array per input blob, of the plan's shape; float32 or int32.

        Returns:
            The outputs by blob name, unpacked float32.

        Raises:
            InputError: an input is missing, unknown, or has another shape or dtype than planned.
        """
        begin = time.perf_counter()
        self.trace.restart()
        arrays = checked_inputs(self.plan.inputs, inputs)
        mats = {blob: native.mat_from_array(array) for blob, array in arrays.items()}
        for action in self._actions:
            action(mats)
        results = {blob: native.mat_to_array(mats[blob], self.plan.options.bf16) for blob in self.plan.outputs}
        self.trace.seconds = time.perf_counter() - begin
        return results

    def hand_over(self) -> ResidentLayers:
        """Close everything but the layers that are kept between inferences: those are the caller's now."""
        kept, self._resident = self._resident, ResidentLayers()
        kept.detach()
        self.close()
        return kept

    def close(self) -> None:
        """Free weights, arena and file, and give the memory back to the system; closing twice is fine."""
        self._actions = []
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

    def _compile(self, step: Step) -> _Action:
        """The step as a function of the blobs that exist."""
        action, use = self._action(step), self._scratch.use
        offset_bytes, size_bytes = step.scratch_offset_bytes, step.scratch_bytes

        def compiled(mats: _Mats) -> None:
            use(offset_bytes, size_bytes)
            action(mats)

        return compiled

    def _action(self, step: Step) -> _Action:
        if step.mode == "constant":
            return self._constant(step)
        if step.mode == "gather":
            return self._gather(step)
        if step.mode == "join":
            return _joined(step, self._blobs[step.outputs[0]])
        if step.mode == "alias" and not step.parts:
            return _split(step)
        compute = self._chain(step) if step.mode == "chain" else self._compute(step)
        copies = [(a, b) for a, b in zip(step.inputs, step.sources, strict=True) if a != b]
        if not copies:
            return compute
        option = self._options["default"]
        prepared = [(blob, name, self._blobs[name].mat) for blob, name in copies]

        def with_copies(mats: _Mats) -> None:
            for blob, name, target in prepared:
                native.convert(mats[blob], target, option)
                mats[name] = target
            compute(mats)

        return with_copies

    def _compute(self, step: Step) -> _Action:
        runs = [self._runner(step, part) for part in step.parts]
        if step.slabs or (step.blob_axis and len(step.parts) > 1):
            whole = self._blobs[step.outputs[0]]
            spans = [(part.begin, part.end) for part in step.parts]
            if len(spans) == 1:
                spans = [(0, whole.layout.packed_extent)]
            targets = [whole.part(step.blob_axis or "c", begin, end) for begin, end in spans]
            placed = self._blobs.get(step.sources[0])
            return _parts(step, runs, targets, whole, placed, self._run_options["default"])
        (run,) = runs
        source = step.sources[0] if step.sources else ""
        if step.mode == "overlay":
            return _overlay(step, run)
        if step.mode in LIST_MODES:
            return self._list(step, run)
        (output,) = step.outputs
        if step.mode == "inplace":

            def inplace(mats: _Mats) -> None:
                mat = mats[source]
                run(lambda loaded: loaded.forward_inplace(mat))
                mats[output] = mat

            return inplace
        if step.mode == "alias":

            def alias(mats: _Mats) -> None:
                top = native.empty_mat()
                run(lambda loaded: loaded.forward(mats[source], top))
                mats[output] = top

            return alias
        top = self._blobs[output].mat
        if step.mode == "fresh":

            def fresh(mats: _Mats) -> None:
                own = native.empty_mat()
                run(lambda loaded: loaded.forward(mats[source], own))
                native.copy_blob(own, top)
                mats[output] = top

            return fresh

        def forward(mats: _Mats) -> None:
            run(lambda loaded: loaded.forward(mats[source], top))
            mats[output] = top

        return forward

    def _chain(self, step: Step) -> _Action:
        """Layers computed slab by slab, all of them loaded meanwhile."""
        (output,), (source,) = step.outputs, step.sources
        top, option = self._blobs[output].mat, self._run_options["default"]
        stages = list(zip(step.stages, step.parts, strict=True))
        kept = [self._resident_layer(stage, part) for stage, part in stages] if step.resident else []
        loads = [self._loader(stage, part) for stage, part in stages]

        def chain(mats: _Mats) -> None:
            self._reserve.ensure_whole()
            begin = time.perf_counter()
            loaded = kept or [load() for load in loads]
            if not kept:
                self.trace.loaded(step.weight_bytes, time.perf_counter() - begin)
            forward_chain(loaded, step.stages, mats[source], top, option)
            for layer in () if kept else loaded:
                layer.close()
            mats[output] = top

        return chain

    def _resident_layer(self, owner: Step | Stage, part: Part) -> native.LoadedLayer:
        """The part's layer for as long as the executor lives: handed over, or loaded."""
        key = resident_key(self.plan, owner, part)
        layer = self._kept.take(key)
        if layer is None:
            layer = self._loader(owner, part)()
        else:
            layer.compute_with(self._run_option(owner), owner.name)
        self._resident.put(key, layer)
        return layer

    def _loader(self, owner: Step | Stage, part: Part) -> Callable[[], native.LoadedLayer]:
        params, source = native.make_params(part.params), self._source
        option, run_option = self._options[owner.kernel], self._run_option(owner)

        def load() -> native.LoadedLayer:
            arrays = source.load(part.pieces)
            loaded = native.LoadedLayer(owner.type, params, arrays, option, owner.name, run_option)
            if not owner.reads_raw:
                loaded.release_raw()
            return loaded

        return load

    def _run_option(self, owner: Step | Stage) -> native.Option:
        return (self._run_options if self._calls_back(owner.type) else self._options)[owner.kernel]

    def _list(self, step: Step, run: Callable[[Callable[[native.LoadedLayer], None]], None]) -> _Action:
        blobs = [self._blobs[name] for name in step.outputs]
        tops = [output_mat(blob, step.mode) for blob in blobs]

        def compute(mats: _Mats) -> None:
            bottoms = [mats[name] for name in step.sources]
            run(lambda loaded: loaded.forward_list(bottoms, tops))
            for name, blob in zip(step.outputs, blobs, strict=True):
                mats[name] = blob.mat

        return compute

    def _runner(self, step: Step, part: Part) -> Callable[[Callable[[native.LoadedLayer], None]], None]:
        """A function that has the part loaded while it calls another."""
        trace = self.trace
        if step.resident:
            kept = self._resident_layer(step, part)
            if not part.pieces:
                return lambda call: call(kept)

            def resident(call: Callable[[native.LoadedLayer], None]) -> None:
                self._reserve.ensure_whole()
                call(kept)

            return resident
        load = self._loader(step, part)
        streamed_bytes = sum(piece.stored_bytes for piece in part.pieces)

        def streamed(call: Callable[[native.LoadedLayer], None]) -> None:
            begin = time.perf_counter()
            self._reserve.ensure_whole()
            loaded = load()
            trace.loaded(streamed_bytes, time.perf_counter() - begin)
            try:
                call(loaded)
            finally:
                loaded.close()

        return streamed

    def _constant(self, step: Step) -> _Action:
        (part,), (output,) = step.parts, step.outputs
        blob = self._blobs[output]

        def constant(mats: _Mats) -> None:
            begin = time.perf_counter()
            native.fill_blob(blob.mat, self._source.load(part.pieces)[0])
            self.trace.loaded(part.pieces[0].stored_bytes, time.perf_counter() - begin)
            mats[output] = blob.mat

        return constant

    def _gather(self, step: Step) -> _Action:
        (part,), (output,) = step.parts, step.outputs
        top, option, run_option = self._blobs[output].mat, self._options["default"], self._run_options["default"]

        def gather(mats: _Mats) -> None:
            begin = time.perf_counter()
            ids = native.mat_to_array(mats[step.inputs[0]])
            arrays, params, renumbered = gathered_rows(self._source, part, ids)
            loaded = native.LoadedLayer(step.type, native.make_params(params), arrays, option, step.name, run_option)
            self.trace.loaded(sum(array.nbytes for array in arrays), time.perf_counter() - begin)
            loaded.forward(native.mat_from_array(renumbered), top)
            loaded.close()
            mats[output] = top

        return gather


def _arena(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed pages of our own, counted in the resident set as they are touched."""
    pages = mmap.mmap(-1, size_bytes + OVERREAD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, np.uint8)


def _split(step: Step) -> _Action:
    (source,) = step.inputs

    def split(mats: _Mats) -> None:
        for output in step.outputs:
            mats[output] = mats[source]

    return split


def _joined(step: Step, whole: Blob) -> _Action:
    (output,) = step.outputs

    def joined(mats: _Mats) -> None:
        mats[output] = whole.mat

    return joined


def _overlay(step: Step, run: Callable[[Callable[[native.LoadedLayer], None]], None]) -> _Action:
    (output,) = step.outputs

    def overlay(mats: _Mats) -> None:
        bottoms, over = [mats[name] for name in step.sources], mats[step.overwrites]
        run(lambda loaded: loaded.forward_list(bottoms, [over]))
        mats[output] = over

    return overlay


def _parts(
    step: Step,
    runs: list[Callable[[Callable[[native.LoadedLayer], None]], None]],
    targets: list[PartTarget],
    whole: Blob,
    placed: Blob | None,
    option: native.Option,
) -> _Action:
    source, output = step.sources[0], step.outputs[0]

    def views_of(bottom: native.Mat) -> list[list[SlabViews]]:
        reads = [native.channels_of(bottom, *part.reads) if part.reads[1] else bottom for part in step.parts]
        return [slab_views(step.slabs, read, target.mat) for read, target in zip(reads, targets, strict=True)]

    # blobs of the arena stay where they are, what the caller feeds does not
    known = views_of(placed.mat) if step.slabs and placed is not None else None

    def whole_rows(mats: _Mats) -> None:
        bottom = mats[source]
        for part, run, target in zip(step.parts, runs, targets, strict=True):
            top = target.mat
            read = native.channels_of(bottom, *part.reads) if part.reads[1] else bottom
            run(lambda loaded, read=read, top=top: loaded.forward(read, top))  # type: ignore[misc]
            target.store(top)
        mats[output] = whole.mat

    def by_slabs(mats: _Mats) -> None:
        everywhere = known or views_of(mats[source])
        for run, views in zip(runs, everywhere, strict=True):
            run(lambda loaded, views=views: forward_slabs(loaded, views, step.pad_value, option))  # type: ignore[misc]
        mats[output] = whole.mat

    return by_slabs if step.slabs else whole_rows
