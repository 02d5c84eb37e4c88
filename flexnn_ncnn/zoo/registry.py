"""The zoo's manifest, read once: names, entries, and where their files are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flexnn_ncnn.errors import UsageError
from flexnn_ncnn.paths import cache_dir, data_dir
from flexnn_ncnn.zoo.entry import GeneratedSource, ImageSpec, InputSpec, PackageSource, Source, ZooEntry
from param_tools.errors import FormatVersionError, ModelFormatError

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "default_directory",
    "entry",
    "labels",
    "model_paths",
    "names",
    "parse_manifest",
    "photo_path",
]

FORMAT = "flexnn-ncnn zoo"
FORMAT_VERSION = 1
_SUPPORTED_VERSIONS = (1,)


def names() -> tuple[str, ...]:
    """The zoo's models, in the manifest's order."""
    return tuple(_entries())


def entry(name: str) -> ZooEntry:
    """What the manifest says about `name`.

    Raises:
        UsageError: there is no such model; the message names the nearest ones.
    """
    entries = _entries()
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=3) or list(entries)
    raise UsageError(f"the zoo has no model {name!r}", hint=f"did you mean {' or '.join(near)}?")


def default_directory() -> Path:
    """Where models are built unless a command names another folder."""
    return cache_dir() / "models"


def model_paths(name: str, directory: Path | None = None) -> tuple[Path, Path]:
    """The .param and .bin of `name` in `directory`, built or not.

    Args:
        name: a model of the zoo.
        directory: the folder it is built in; `default_directory()` when None.
    """
    known = entry(name)
    folder = default_directory() if directory is None else Path(directory)
    return folder / f"{known.name}.param", folder / f"{known.name}.bin"


def labels(known: ZooEntry) -> tuple[str, ...] | None:
    """The class names of a model's outputs in order, or None when it has none."""
    if not known.labels:
        return None
    return tuple((data_dir() / known.labels).read_text(encoding="utf-8").splitlines())


def photo_path(known: ZooEntry) -> Path | None:
    """A picture to try the model on, or None when the zoo ships none for it."""
    return data_dir() / known.photo if known.photo else None


def parse_manifest(text: str, path: str = "manifest.json") -> dict[str, ZooEntry]:
    """The entries of a manifest's text.

    Args:
        text: JSON as docs/formats/zoo-manifest.md describes it.
        path: what to call it in an error.

    Raises:
        FormatVersionError: it has another version.
        ModelFormatError: it is no manifest, or a field is missing.
    """
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ModelFormatError(f"this is no {FORMAT} manifest but {document['format']!r}", path=path)
        if document["version"] not in _SUPPORTED_VERSIONS:
            raise FormatVersionError(
                "the zoo's manifest", found=document["version"], supported=_SUPPORTED_VERSIONS, path=path
            )
        return {name: _parse_entry(name, fields) for name, fields in document["models"].items()}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelFormatError(f"the zoo's manifest cannot be read: {error}", path=path) from error


@lru_cache(maxsize=1)
def _entries() -> Mapping[str, ZooEntry]:
    path = data_dir() / "manifest.json"
    return MappingProxyType(parse_manifest(path.read_text(encoding="utf-8"), str(path)))


def _parse_entry(name: str, fields: Mapping[str, Any]) -> ZooEntry:
    known = dict(fields)
    known["inputs"] = tuple(InputSpec(**_tuples(one)) for one in fields["inputs"])
    known["source"] = _parse_source(fields["source"])
    known["image"] = ImageSpec(**_tuples(fields["image"])) if fields.get("image") else None
    return ZooEntry(name=name, **known)


def _parse_source(fields: Mapping[str, Any]) -> Source:
    kinds: dict[str, type[GeneratedSource] | type[PackageSource]] = {
        "generated": GeneratedSource,
        "package": PackageSource,
    }
    values = _tuples(fields)
    return kinds[values.pop("kind")](**values)


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
