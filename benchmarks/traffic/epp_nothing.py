"""A picker that does nothing, on grpcio's asyncio server: what `benchmarks.traffic.epp` measures ours against.

Every call goes to one address, every body is sent on as it came; nothing is looked at but where it ends. So it shows
what gRPC alone costs in Python. grpcio is set as it is cheapest (without its "event engine"), on uvloop.

    python -m benchmarks.traffic.epp_nothing [ADDRESS]     # says its port
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault(
    "GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client,-event_engine_callback_cq"
)
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import uvloop
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from gemstead.gateway.epp import wire

CHOSEN = wire.picked(sys.argv[1:] or ["10.0.0.1:8000"])


async def process(_: object, context: Any) -> None:
    body = b""
    while isinstance(raw := await context.read(), bytes):
        message = wire.read(raw)
        which = message.WhichOneof("request")
        if which == "request_body":
            body += message.request_body.body
            if message.request_body.end_of_stream:
                await context.write(CHOSEN)
                for piece in wire.pieces(body, True, request=True):
                    await context.write(piece)
        elif which == "response_headers":
            await context.write(wire.GO_ON[which])
        elif which == "response_body":
            answer = message.response_body
            for piece in wire.pieces(answer.body, answer.end_of_stream, request=False):
                await context.write(piece)
            if answer.end_of_stream:
                return


async def main() -> None:
    server = grpc.aio.server()
    handlers = {"Process": grpc.stream_stream_rpc_method_handler(process)}
    service = ext_proc.DESCRIPTOR.services_by_name["ExternalProcessor"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listens on {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
