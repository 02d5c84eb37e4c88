"""Frozen records, and what they are written as."""
