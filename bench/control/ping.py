"""A client that asks over one TCP connection, every millisecond or so, and notes how long each
answer took:

    python -m bench.control.ping ADDRESS PORT SECONDS

Prints a JSON list of seconds. It runs at a real-time priority, so that what is measured is
the way and not its own turn.
"""

import json
import socket
import sys
import time

from bench.control.scene import PERIOD, real_time


def ping(address: str, port: int, seconds: float) -> list[float]:
    found = []
    with socket.create_connection((address, port), 5) as line, real_time():
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while (sent := time.monotonic()) < end:
            line.send(b"?\n")
            if not line.recv(100):
                raise SystemExit("the connection was closed")
            found.append(time.monotonic() - sent)
            time.sleep(PERIOD)
    return found


if __name__ == "__main__":
    _, address, port, seconds = sys.argv
    print(json.dumps(ping(address, int(port), float(seconds))))
