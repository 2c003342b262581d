"""Health: `judge` (what results mean), `schedule` (when to probe), and, in the worker
process, the probes themselves."""
