"""Runs on the client: hold connections, ask over each again and again, say which broke.

    hold.py ADDRESS COUNT PATIENCE        until TERM; then JSON on one line

    {"opened": 20, "kept": 20, "asked": 431, "broken": {"timed out": 0}, "servers": {...}}

Standard library only. A question waits up to PATIENCE seconds: TCP itself tries again after
a takeover, at growing intervals.
"""

import http.client
import json
import signal
import sys
import threading
from collections import Counter

PAUSE = 1.0  # seconds


class Held:
    """One connection. It is never opened a second time."""

    def __init__(self, address: str, patience: float) -> None:
        self.asked, self.server, self.broken = 0, "", ""
        self._http = http.client.HTTPConnection(address, timeout=patience)
        self._http.connect()
        self._http.auto_open = 0
        self.ask()

    def ask(self) -> None:
        """Raises OSError, HTTPException."""
        self._http.request("GET", "/")
        answer = self._http.getresponse()
        answer.read()
        server = answer.headers["X-Server"] or "?"
        if self.server and server != self.server:
            raise OSError(f"{server} answers instead of {self.server}")
        self.server = server
        self.asked += 1

    def go_on(self, stop: threading.Event) -> None:
        """Until `stop`, and once more then."""
        try:
            while not stop.wait(PAUSE):
                self.ask()
            self.ask()
        except (OSError, http.client.HTTPException) as error:
            self.broken = str(error) or type(error).__name__


def main(address: str, count: int, patience: float) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    held: list[Held] = []
    refused: Counter[str] = Counter()
    for _ in range(count):
        try:
            held.append(Held(address, patience))
        except (OSError, http.client.HTTPException) as error:
            refused[f"not opened: {error}"] += 1
    threads = [threading.Thread(target=one.go_on, args=(stop,)) for one in held]
    for thread in threads:
        thread.start()
    print(json.dumps({"opened": len(held)}), flush=True)
    stop.wait()
    for thread in threads:
        thread.join()
    said = {
        "opened": len(held),
        "kept": sum(not one.broken for one in held),
        "asked": sum(one.asked for one in held),
        "broken": Counter(one.broken for one in held if one.broken) + refused,
        "servers": Counter(one.server for one in held),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
