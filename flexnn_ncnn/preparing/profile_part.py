"""What was measured of a network, narrowed to what some outputs need."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from flexnn_ncnn.errors import ProfileError
from flexnn_ncnn.records.profile import LayerProfile, ModelProfile

__all__ = ["profile_towards"]


def profile_towards(profile: ModelProfile, outputs: Collection[str]) -> ModelProfile:
    """The layers and inputs that `outputs` need; layers cost the same whatever else is computed.

    Args:
        profile: of the network.
        outputs: blobs wanted, those that other layers read among them; none for the network's own.

    Raises:
        ProfileError: no layer makes one of them.
    """
    if not outputs:
        return profile
    wanted = set(outputs)
    kept: list[LayerProfile] = []
    for layer in reversed(profile.layers):
        made = [blob for blob in layer.outputs if blob in wanted]
        if made:
            wanted.update(layer.inputs)
            kept.append(_split_into(layer, made) if layer.type == "Split" else layer)
    unknown = set(outputs) - {blob for layer in kept for blob in layer.outputs}
    if unknown:
        raise ProfileError(f"the profile has no layer that makes blob {min(unknown)!r}")
    inputs = tuple((blob, layout) for blob, layout in profile.inputs if blob in wanted)
    in_order = tuple(blob for layer in reversed(kept) for blob in layer.outputs if blob in outputs)
    indices = {layer.index for layer in kept}
    expansions = tuple(inner for inner in profile.expansions if inner[0].index in indices)
    return replace(profile, inputs=inputs, outputs=in_order, layers=tuple(reversed(kept)), expansions=expansions)


def _split_into(layer: LayerProfile, outputs: Collection[str]) -> LayerProfile:
    """A Split without the outputs that nobody reads now: they would keep its memory."""
    pairs = [(b, layout) for b, layout in zip(layer.outputs, layer.output_layouts, strict=True) if b in outputs]
    return replace(layer, outputs=tuple(b for b, _ in pairs), output_layouts=tuple(layout for _, layout in pairs))
