"""Weights: where they come from, how they stream, which stay."""
