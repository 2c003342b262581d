"""Nanoseconds per packet of the packet program, beside a textbook NAT, on one core."""
