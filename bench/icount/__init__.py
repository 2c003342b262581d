"""Instructions per packet, as virtual nanoseconds: a gauge that no neighbour disturbs."""
