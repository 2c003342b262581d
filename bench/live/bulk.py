"""A TCP stream of zeros, as one program on the standard library alone.

bulk.py serve PORT
bulk.py fetch ADDRESS PORT SECONDS     prints bits per second
"""

import socket
import sys
import threading
import time

BLOCK = 1 << 18


def serve(port: int) -> None:
    zeros = bytes(BLOCK)

    def pour(connection: socket.socket) -> None:
        with connection:
            try:
                while True:
                    connection.sendall(zeros)
            except OSError:
                return

    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=pour, args=(connection,), daemon=True).start()


def fetch(address: str, port: int, seconds: float) -> float:
    buffer, total = bytearray(BLOCK), 0
    with socket.create_connection((address, port), timeout=10) as connection:
        began = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            total += connection.recv_into(buffer)
    return total * 8 / (now - began)


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "serve":
        serve(int(rest[0]))
    else:
        print(fetch(rest[0], int(rest[1]), float(rest[2])))


if __name__ == "__main__":
    main()
