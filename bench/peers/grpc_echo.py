"""Both ends of grpcio's asyncio API with mutual TLS: ``grpc_echo.py serve|drive FOLDER PORT``.

Raw bytes without protobuf, message limits lifted, one connection: gRPC at its best.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc.aio  # type: ignore[import-untyped]  # it is in its own environment only

from timing import ACK, ECHOED, answer_commands, reply, timed

_SERVICE = "bench.Echo"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.ssl_target_name_override", "bench"),
]


def _echo(request: bytes) -> bytes:
    return request if len(request) <= ECHOED else ACK


async def _unary(request: bytes, context: Any) -> bytes:
    del context
    return _echo(request)


async def _stream(requests: Any, context: Any) -> None:
    del requests
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(_echo(request))


def _credentials(folder: Path, *, server: bool) -> Any:
    key, certificate = (folder / "grpc.key").read_bytes(), (folder / "grpc.crt").read_bytes()
    if server:
        return grpc.ssl_server_credentials(
            [(key, certificate)], root_certificates=certificate, require_client_auth=True
        )
    return grpc.ssl_channel_credentials(certificate, key, certificate)


async def _serve(folder: Path, port: str) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    handlers = {
        "unary": grpc.unary_unary_rpc_method_handler(_unary),
        "stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
    server.add_secure_port(f"127.0.0.1:{port}", _credentials(folder, server=True))
    await server.start()
    reply({"ready": []})
    await server.wait_for_termination()


async def _drive(folder: Path, port: str) -> None:
    target = f"127.0.0.1:{port}"
    credentials = _credentials(folder, server=False)
    async with grpc.aio.secure_channel(target, credentials, options=_OPTIONS) as channel:
        unary = channel.unary_unary(f"/{_SERVICE}/unary")
        call = channel.stream_stream(f"/{_SERVICE}/stream")()

        async def stream(payload: bytes) -> None:
            await call.write(payload)
            await call.read()

        await answer_commands({"unary": timed(unary), "stream": timed(stream)})
        await call.done_writing()


if __name__ == "__main__":
    role, folder, port = sys.argv[1:]
    asyncio.run((_serve if role == "serve" else _drive)(Path(folder), port))
