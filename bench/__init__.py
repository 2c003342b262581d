"""Benchmarks of lbctl: `make bench-NAME` runs bench/NAME and writes bench/out/NAME.json."""
