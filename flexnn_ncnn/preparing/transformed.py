"""A file of transformed weights beside a model's plans: what kernels make of slices, made once for all plans."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from flexnn_ncnn.records.layout import align_up
from flexnn_ncnn.records.plan import TRANSFORMED_OFFSET_BYTES, Part, Plan, Step, WeightPiece
from flexnn_ncnn.records.sha256 import sha256
from flexnn_ncnn.runtime import native
from flexnn_ncnn.runtime.weights.file_watch import FileWatch
from flexnn_ncnn.runtime.weights.origin import (
    Stamp,
    content_digest,
    index_path,
    is_made_from,
    stamp_of,
    transformed_path,
)
from flexnn_ncnn.runtime.weights.weight_source import WeightSource
from param_tools.files import atomic_write

__all__ = ["TransformedFile"]

_ALIGNMENT_BYTES = max(64 * 1024, mmap.PAGESIZE)
# large images begin where huge pages do: mapping those takes a tenth of the time
_HUGE_PAGE_BYTES = 2 * 1024 * 1024


class TransformedFile:
    """Images of transformed weights, each from a page on; only ever appended to, and named after the .bin's content.

    Args:
        folder: of the plans of one model on one machine.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def supply(self, plan: Plan, bin_path: Path) -> Plan:
        """The plan with its transformed parts taken from the file, which gets those it lacks.

        Args:
            plan: in which parts with a `transformed_count` still have the weights of the .bin.
            bin_path: those weights.

        Raises:
            ModelChangedError: the .bin was written to meanwhile.
            NcnnError: ncnn refuses a layer.
            OSError: the disk is full.
        """
        if not any(part.transformed_count for step in plan.steps for part in step.parts):
            return plan
        with self._locked(), closing(WeightSource(bin_path)) as source:
            watch = FileWatch(bin_path, source.file_descriptor)
            store = _Store(self._file_for(bin_path))
            steps = tuple(
                replace(step, parts=tuple(store.part(plan, step, part, source) for part in step.parts))
                for step in plan.steps
            )
            watch.check()
            store.close(stamp_of(bin_path))
        return replace(plan, steps=steps, transformed_path=str(store.path))

    def _file_for(self, bin_path: Path) -> Path:
        """The file for a .bin as it is now; those for what it was are gone after this."""
        found = sorted(self._folder.glob("transformed-*.weights"))
        for path in found:
            if is_made_from(path, bin_path):
                return path
            for stale in (path, index_path(path)):
                stale.unlink(missing_ok=True)
        return transformed_path(self._folder, content_digest(bin_path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Ours alone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "transformed.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class _Store:
    """One such file while it is added to.

    Args:
        path: the file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._read_index()
        self._index = dict(self._before[1])

    def part(self, plan: Plan, step: Step, part: Part, source: WeightSource) -> Part:
        """The part with what its kernel makes of its weights for a piece."""
        if not part.transformed_count:
            return part
        facts = repr((step.type, step.kernel, plan.options, part.params, part.pieces))
        key = sha256(facts.encode()).hexdigest()[:24]
        if key not in self._index:
            self._index[key] = self._append(plan, step, part, source)
        offset_bytes, size_bytes = self._index[key]
        image = WeightPiece(TRANSFORMED_OFFSET_BYTES + offset_bytes, size_bytes, "int8")
        count = native.matrix_count(step.type)
        rest = part.pieces[1:] if count == 1 else part.pieces[1 : 2 * count : 2]  # a bias follows each matrix
        return replace(part, pieces=(image, *rest))

    def _append(self, plan: Plan, step: Step, part: Part, source: WeightSource) -> tuple[int, int]:
        option = native.make_option(plan.options, step.kernel)
        with TemporaryDirectory(dir=self.path.parent) as folder:
            image_path = Path(folder) / "image"
            params = native.make_params(part.params)
            native.save_transformed(step.type, params, source.load(part.pieces), option, image_path)
            image = image_path.read_bytes()
        with open(self.path, "ab") as file:
            alignment_bytes = _HUGE_PAGE_BYTES if len(image) >= _HUGE_PAGE_BYTES else _ALIGNMENT_BYTES
            offset_bytes = align_up(file.tell(), alignment_bytes)
            file.truncate(offset_bytes)  # a hole takes no disk
            file.write(image)
        return offset_bytes, len(image)

    def close(self, stamp: Stamp | None) -> None:
        """Note what is in the file now that it is there, and the stamp of the .bin it was made from."""
        if len(self._index) != len(self._before[1]):
            self._settle()
        elif stamp == self._before[0]:
            return
        with atomic_write(index_path(self.path), "w") as file:
            json.dump({"bin": stamp, "images": self._index}, file)

    def _settle(self) -> None:
        """Have the file on disk, and in the page cache as reading brings it there, which is quicker to map."""
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
        with closing(WeightSource(self.path)) as source:
            source.read_through()

    def _read_index(self) -> tuple[Stamp | None, dict[str, tuple[int, int]]]:
        """Stamp and images; nothing where either file is not what it should be, and all is made again."""
        try:
            found = json.loads(index_path(self.path).read_text())
            size = self.path.stat().st_size
            spans = {str(key): (int(offset), int(count)) for key, (offset, count) in found["images"].items()}
            return found["bin"], {
                key: (offset, count) for key, (offset, count) in spans.items() if offset + count <= size
            }
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            return None, {}
