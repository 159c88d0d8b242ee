"""Hypothesis settings: the same examples in every run, nothing written to disk."""

from hypothesis import settings

settings.register_profile("ops", deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile("ops")
