"""IPVS as a data path.

genl      netlink and generic netlink in bytes: pure
codec     IPVS's attributes <-> the model: pure
netlink   the socket
intent    which services and servers are ours, in a file
snat      full NAT's source translation as one nftables table: pure
sysctls   the kernel's switches, and why each is set
plane     the port, from the parts above
"""
