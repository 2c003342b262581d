"""Network namespaces that the calling thread steps into, and sockets that stay in them.

A socket belongs to the namespace it was made in. So one process can hold a client, a
gateway and servers, and a test can say line by line who sends what to whom: nothing has
to be started, waited for or ended.
"""

import ctypes
import os
import socket
import subprocess
from contextlib import contextmanager

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_NET = 0x40000000


def _check(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def _back_home():
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        yield
    finally:
        _check(_LIBC.setns(home, _NEW_NET))
        os.close(home)


class Host:
    """A named namespace, from `with` to `with`'s end."""

    def __init__(self, name):
        self.name = f"lbctl-vm{os.getpid()}-{name}"

    @property
    def short(self):
        return self.name.rsplit("-", 1)[1]

    def __enter__(self):
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.ip("link set lo up")
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    @contextmanager
    def inside(self):
        """The calling thread is there."""
        with _back_home():
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                _check(_LIBC.setns(there, _NEW_NET))
            finally:
                os.close(there)
            yield

    def ip(self, *lines):
        """Commands of `ip`, in one batch."""
        batch = "\n".join(lines)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=batch, text=True, check=True)

    def sysctl(self, **values):
        """`net__ipv4__ip_forward=1`: two underscores for each slash."""
        with self.inside():
            for name, value in values.items():
                with open(f"/proc/sys/{name.replace('__', '/')}", "w") as file:
                    file.write(str(value))

    def socket(self, family, kind):
        with self.inside():
            return socket.socket(family, kind)


def cable(one, other):
    """A veth between two hosts, each end named after the host at the other."""
    one.ip(f"link add {other.short} type veth peer name {one.short} netns {other.name}")
    one.ip(f"link set {other.short} up")
    other.ip(f"link set {one.short} up")
