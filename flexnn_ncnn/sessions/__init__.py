"""A model open under a budget, which may change."""
