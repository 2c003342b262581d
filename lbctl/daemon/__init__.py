"""The daemon: facts in, one loop that brings the data path to what follows from them, and
an API on a Unix socket. `run` wires it; every other module can be read on its own."""
