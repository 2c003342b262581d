"""Counters by the names that people know."""
