"""What the planner works on, and what it decides."""

from __future__ import annotations

from dataclasses import dataclass, field

from flexnn_ncnn.planning.candidates import Candidates
from flexnn_ncnn.planning.choices import Choice
from flexnn_ncnn.planning.problem import BlobProblem
from flexnn_ncnn.planning.releases import Releases
from flexnn_ncnn.planning.simulate import Lanes
from flexnn_ncnn.records.capabilities import Capabilities
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile
from flexnn_ncnn.records.storage import Storage

__all__ = ["Schedule", "Workload", "result_bytes"]

# of an output that is copied while the arena gives its pages back (runtime/native/mats.py), and what lies between pages
_COPIED_AT_ONCE_BYTES = 3 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Workload:
    """What planning needs of a profile, the same for every budget.

    Attributes:
        profile: what was measured; layers joined to a chain are one layer.
        capabilities: what the ncnn that will run can do.
        storage: where streamed weights come from.
        members: per layer of `profile` the measured layers it stands for.
        blobs: buffers and how steps use them.
        offsets: per buffer its place in the arena.
        gaps: per layer the ranges of the arena that no blob has while it runs, the last one open.
        candidates: all choices, in the form that selecting needs.
        in_turn: the same where loads and computing take turns, so that weights may be read to the scratch.
        joint: the same for schedules that give memory back within an inference, see `planning.releases`; None past the
            page cache.
        choices: per layer the ways to run it.
        staged: the same with weights read to the scratch, wherever that makes the arena no larger.
        chained: the same network with ever more layers joined to chains, for smaller arenas, and with what layers do
            inside in their place, for smaller loads.
        code_bytes: of what a run needs beside all that is planned, the part that giving memory back takes out of the
            resident set for the step that comes next: code pages of the layers before.
    """

    profile: ModelProfile
    capabilities: Capabilities
    storage: Storage
    members: tuple[tuple[LayerProfile, ...], ...]
    blobs: BlobProblem
    offsets: tuple[int, ...]
    gaps: tuple[tuple[tuple[int, int], ...], ...]
    candidates: Candidates = field(compare=False)
    in_turn: Candidates = field(compare=False)
    joint: Candidates | None = field(compare=False)
    choices: tuple[tuple[Choice, ...], ...]
    staged: tuple[tuple[Choice, ...], ...]
    chained: tuple[Workload, ...] = ()
    code_bytes: int = 0

    @property
    def is_expanded(self) -> bool:
        """Whether what some layers do inside is in their place."""
        return any(layer.inner for layer in self.profile.layers)

    @property
    def least_seconds(self) -> float:
        """What no schedule is faster than: every layer's own fastest choice."""
        return sum(min(choice.seconds for choice in found) for found in self.choices if found)

    @property
    def blob_bytes(self) -> int:
        """What blobs alone take of the arena."""
        return int(self.candidates.floor.arena_bytes)

    @property
    def fixed_bytes(self) -> int:
        """What is held whatever is chosen: of "direct" the outputs handed over, as weights are read meanwhile."""
        return result_bytes(self.profile) if self.storage.is_direct else 0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What the planner decides.

    Attributes:
        workload: what it was decided for.
        budget_bytes: the budget.
        chosen: per layer its choice, None where no layer runs.
        scratch_offsets: per layer where in the arena its scratch begins.
        arena_bytes: size of the arena.
        predicted_peak_bytes: growth of the resident set over the idle process.
        predicted_seconds: one inference.
        kept_bytes: weights kept between inferences.
        heap_bytes: heap that loads in memory at once may need beside them.
        raw_bytes: raw weights that they may map, or the outputs handed over, whichever is more; of "direct" the memory
            that weights are read to.
        releases: what is given back within an inference, and what is held at most because of that; None where arena and
            heap are kept.
        lanes: where loads go that go on beside computing; None where both take turns.
    """

    workload: Workload
    budget_bytes: int
    chosen: tuple[Choice | None, ...]
    scratch_offsets: tuple[int, ...]
    arena_bytes: int
    predicted_peak_bytes: int
    predicted_seconds: float
    kept_bytes: int
    heap_bytes: int
    raw_bytes: int
    releases: Releases | None = None
    lanes: Lanes | None = None

    @property
    def gives_back(self) -> bool:
        """Whether any memory is given back within an inference."""
        return self.releases is not None and bool(self.releases.arena_steps or self.releases.heap_steps)

    @property
    def returned_code_bytes(self) -> int:
        """Of `Workload.code_bytes` what is not held at the peak."""
        return self.releases.code_bytes if self.releases is not None else 0

    @property
    def objects_bytes(self) -> int:
        """What is kept to call slices and slabs one by one."""
        return sum(choice.objects_bytes for choice in self.chosen if choice is not None)


def result_bytes(profile: ModelProfile) -> int:
    """What the caller gets, in memory of its own; of one large output no more than is copied at once is held twice."""
    layouts = {
        blob: layout
        for layer in profile.layers
        for blob, layout in zip(layer.outputs, layer.output_layouts, strict=True)
    }
    size = sum(layouts[blob].size_bytes for blob in profile.outputs)
    alone = len(profile.outputs) == 1 and layouts[profile.outputs[0]].lane_bytes == 4
    return min(size, _COPIED_AT_ONCE_BYTES) if alone else size
