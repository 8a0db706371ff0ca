"""Small programs that stand in for the inference server and for rathole, and start in a blink.

Each appends `ROLE PID` to the file named by STAND_IN_LOG once it listens (the tunnel client: once it is connected).
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SLOW_S = 4.0  # until the image `slow` listens

# argv: port, state, then what Fair was given: --config FILE. Names its pid as its model.
INFERENCE = """
import json, os, ssl, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
port, state = int(sys.argv[1]), sys.argv[2]
config = json.load(open(sys.argv[4])) if sys.argv[3:] else {}

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        told = {"state": state.partition(":")[0], "model": str(os.getpid()), "fingerprint": config.get("fingerprint"),
                "deployment": config.get("deployment"), "reason": state.partition(":")[2]}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    allow_reuse_address = True

    def finish_request(self, request, address):
        if config:
            request.settimeout(5)
            request = context.wrap_socket(request, server_side=True)
        self.RequestHandlerClass(request, address, self)

    def handle_error(self, request, address):
        pass

if config:
    for name in ("key", "certificate"):
        open(name, "w").write(config["tls_" + name])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate", "key")
server = Server(("127.0.0.1", port), Handler)
open(os.environ["STAND_IN_LOG"], "a").write(f"inference {os.getpid()}\\n")
server.serve_forever()
"""

# argv: --server or --client, configuration. As rathole: the public port is open only while a client holds on, and a
# second client displaces the first. The client tells where the service listens, and the server connects there itself.
RATHOLE = """
import asyncio, contextlib, os, sys, tomllib
mode, config = sys.argv[1], tomllib.load(open(sys.argv[2], "rb"))

def address(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)

def tell(role):
    open(os.environ["STAND_IN_LOG"], "a").write(f"{role} {os.getpid()}\\n")

async def pump(reader, writer):
    with contextlib.suppress(OSError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()

async def server():
    (service,) = config["server"]["services"].values()
    held = []

    async def control(reader, writer):
        token, host, port = (await reader.readline()).decode().split()
        if token != service["token"]:
            return writer.close()
        for old in held:
            old.close()
        held[:] = [writer]

        async def public(reader, writer):
            try:
                inner = await asyncio.open_connection(host, int(port))
            except OSError:
                return writer.close()
            await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

        with contextlib.suppress(OSError):
            async with await asyncio.start_server(public, *address(service["bind_addr"])):
                writer.write(b"ok\\n")
                await reader.read()
        if writer in held:
            held.remove(writer)
        writer.close()  # where the one before had not gone yet: it is to come again

    listener = await asyncio.start_server(control, *address(config["server"]["bind_addr"]))
    tell("tunnel-server")
    await listener.serve_forever()

async def client():
    (service,) = config["client"]["services"].values()
    told = False
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(*address(config["client"]["remote_addr"]))
            writer.write(f"{service['token']} {' '.join(map(str, address(service['local_addr'])))}\\n".encode())
            if await reader.readline() and not told:
                tell("tunnel-client")
                told = True
            await reader.read()
            writer.close()
        await asyncio.sleep(0.1)

asyncio.run(server() if mode == "--server" else client())
"""


def images() -> dict[str, Sequence[str]]:
    """The nodes file's images: `inference` is healthy, the others are named by what is wrong with them."""
    python = [sys.executable, "-c"]
    states = {
        "inference": "healthy",
        "inference-2": "healthy",
        "loading": "loading",
        "failed": "failed:no such file: unet",
    }
    states["gpu-busy"] = "failed:gpu-busy: 1 of 24 GiB are free"
    made: dict[str, Sequence[str]] = {
        name: [*python, INFERENCE, "{port:8000}", state] for name, state in states.items()
    }
    made["slow"] = [*python, f"import time; time.sleep({SLOW_S})\n{INFERENCE}", "{port:8000}", "healthy"]
    made["dies"] = [*python, "import sys; sys.exit('CUDA is not available')"]
    made["rathole"] = [*python, RATHOLE]
    return made


@dataclass(frozen=True)
class StartLog:
    """What the stand-ins said in their file."""

    path: Path

    def starts(self) -> dict[str, int]:
        """How often each role came up."""
        rows = [line.split()[0] for line in self._lines()]
        return {role: rows.count(role) for role in dict.fromkeys(rows)}

    def pid(self, role: str) -> int:
        """The process of the role that came up last."""
        return int([line.split()[1] for line in self._lines() if line.split()[0] == role][-1])

    def clear(self) -> None:
        """Begins anew."""
        self.path.write_text("")

    def environment(self) -> dict[str, str]:
        """What the Fair server, and so the stand-ins, must find in the environment."""
        return {"STAND_IN_LOG": os.fspath(self.path)}

    def _lines(self) -> list[str]:
        return self.path.read_text().splitlines()
