"""Nanoseconds per packet of the maps that were chosen between, and of writing a ring."""
