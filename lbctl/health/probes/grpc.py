"""A call of the gRPC health service."""

from lbctl.health.grpc1 import Reply
from lbctl.health.probes.dial import Dial


async def grpc(dial: Dial, request: bytes) -> str:
    with await dial() as stream:
        await stream.send(request)
        reply = Reply()
        while not reply.done:
            reply.receive(await stream.receive("waiting for an answer"))
            await stream.send(reply.to_send)
        return "SERVING"
