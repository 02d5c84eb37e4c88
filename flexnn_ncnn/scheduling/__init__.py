"""Profiles and schedules without a run."""
