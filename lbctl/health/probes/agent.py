"""What a server says of itself: our agent over HTTPS, or a line of HAProxy's protocol."""

import secrets
from dataclasses import dataclass

from lbctl.health.agentwords import read_json, read_line
from lbctl.health.files import Files
from lbctl.health.http1 import LIMIT, Expectation, request
from lbctl.health.probes.dial import Dial
from lbctl.health.probes.http import KeptConnection
from lbctl.health.result import Failed, Found, Unable
from lbctl.model import AgentProbe, Endpoint, HttpProbe

_OK = Expectation(((200, 200),), None, bodiless=False, whole=True)


@dataclass(frozen=True)
class Question:
    """How our agent is asked: each time with another nonce, so that nobody can answer with
    what an agent said earlier."""

    probe: AgentProbe
    endpoint: Endpoint
    files: Files

    def about(self, nonce: str) -> bytes:
        """The request. Raises Unable where the token cannot be read."""
        headers: tuple[tuple[str, str], ...] = ()
        if self.probe.token:
            headers = (("Authorization", f"Bearer {self._token()}"),)
        return request(
            HttpProbe(
                path=f"{self.probe.path}?nonce={nonce}",
                host=self.probe.tls.name if self.probe.tls else "",
                headers=headers,
                tls=self.probe.tls,
                keepalive=True,
            ),
            self.endpoint,
        )

    def _token(self) -> str:
        try:
            return self.files.read(self.probe.token).decode("ascii").strip()
        except UnicodeDecodeError:
            raise Unable(f"{self.probe.token}: no token: it is not ASCII") from None


async def ask_agent(question: Question, kept: KeptConnection) -> Found:
    nonce = secrets.token_hex(8)
    answer = await kept.ask(question.about(nonce), _OK)
    if not answer.complete:
        raise Failed(f"an answer without a length, or of more than {LIMIT >> 10} KiB")
    report = read_json(answer.body, nonce)
    return Found(str(report) or "it measures nothing", report)


async def ask_haproxy_agent(dial: Dial, send: bytes) -> Found:
    with await dial() as stream:
        if send:
            await stream.send(send)
        data = b""
        while (report := read_line(data)) is None:
            if not (more := await stream.receive("waiting for its line")):
                # HAProxy takes the end of the connection for the end of the line, too.
                report = read_line(data + b"\n")
                break
            data += more
        assert report is not None, "a line that ends is whole"
        return Found(str(report), report)
