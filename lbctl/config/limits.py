"""How much of a file is read, and how much is said about it."""

MAX_BYTES = 8 << 20
MAX_DEPTH = 32
MAX_NODES = 500_000  # values, each alias counted with all it stands for
MAX_FAULTS = 1000  # a file with more has one cause
