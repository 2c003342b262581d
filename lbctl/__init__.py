"""lbctl: an L4 load balancer for Linux gateways."""

__version__ = "0.1.0"
