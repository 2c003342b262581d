"""Counters: summed by the names that people know, and as metrics."""
