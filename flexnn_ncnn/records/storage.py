"""How streamed weights are read, and how fast that is: what a plan is made for beside profile and budget."""

from __future__ import annotations

from dataclasses import dataclass

from flexnn_ncnn.errors import UsageError

__all__ = ["CACHED", "PAGE_CACHES", "Storage", "checked_page_cache"]

PAGE_CACHES = ("mmap", "direct")
"""Through the system's page cache, or past it."""


def checked_page_cache(name: str) -> str:
    """`name`, if it is one of `PAGE_CACHES`.

    Raises:
        UsageError: it is not.
    """
    if name not in PAGE_CACHES:
        raise UsageError(f"{name!r} is no way to read weights", hint=f"give {' or '.join(map(repr, PAGE_CACHES))}")
    return name


@dataclass(frozen=True, slots=True)
class Storage:
    """Where streamed weights come from.

    Attributes:
        page_cache: a name in `PAGE_CACHES`.
        bytes_per_second: of "direct", how fast the file is read; of "mmap" the profile says what mapping costs.
    """

    page_cache: str = "mmap"
    bytes_per_second: float = 0.0

    @property
    def is_direct(self) -> bool:
        """Whether weights are read past the page cache, beside computing."""
        return self.page_cache == "direct"


CACHED = Storage()
"""The weights lie in the page cache."""
