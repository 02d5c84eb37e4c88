"""What the installed ncnn can do beyond the stock wheel: a record that planner and runtime take as input."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["CAPABILITY_EFFECTS", "STOCK", "Capabilities"]


@dataclass(frozen=True)
class Capabilities:
    """All but the first two are False on the stock wheel; `flexnn_ncnn.runtime.native.capabilities` probes them.

    Attributes:
        cpus_beside: CPUs for computing and loading together, where threads can load while others compute; else 0.
        unlocks_calls: layers can be called so that other Python threads run, whatever the bindings do.
        releases_gil: loading, pipelines and forward let other Python threads run.
        loads_zero_copy: `DataReaderFromBuffer` reads weights in place from any Python buffer.
        has_weight_allocator: `Option.weight_allocator` decides where raw and transformed weights lie.
        saves_transformed_weights: `Option.transformed_weights` keeps what `create_pipeline` makes, and gives it back.
        tiles_im2col: a convolution by sgemm holds one tile of the im2col matrix, not all of it.
        feeds_borrowed_mats: a `Net` can be fed a Mat over memory that is not ncnn's.
    """

    cpus_beside: int = 0
    unlocks_calls: bool = False
    releases_gil: bool = False
    loads_zero_copy: bool = False
    has_weight_allocator: bool = False
    saves_transformed_weights: bool = False
    tiles_im2col: bool = False
    feeds_borrowed_mats: bool = False

    def loads_beside(self, num_threads: int) -> bool:
        """Whether loads can go on beside computing by so many threads, with a CPU to spare for them."""
        return self.cpus_beside > num_threads

    @property
    def is_stock(self) -> bool:
        """Whether nothing is there that the stock wheel lacks."""
        return not any(getattr(self, field.name) for field in fields(self) if field.name not in _ANY_WHEELS)


_ANY_WHEELS = ("cpus_beside", "unlocks_calls")

STOCK = Capabilities()
"""The stock wheel's at least."""

CAPABILITY_EFFECTS = {
    "cpus_beside": "a thread loads the next layers while this one is computed",
    "unlocks_calls": "layers are called past the bindings, which would keep that thread waiting",
    "releases_gil": "the bindings themselves let other threads run",
    "loads_zero_copy": "weights are used where they are mapped, without a copy",
    "has_weight_allocator": "nothing yet: stored transformed weights need no memory to be placed",
    "saves_transformed_weights": "weights are transformed once; a load maps them in",
    "tiles_im2col": "the workspace of a convolution by sgemm is one tile",
    "feeds_borrowed_mats": "inputs are read in place",
}
"""What each capability gives, in the order of the fields."""
