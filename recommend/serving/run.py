"""`python -m recommend serve`: opens the index, listens, says where, and ends with Ctrl-C."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Collection

import uvicorn

from recommend.recommender import Recommender
from recommend.serving.app import build_app
from recommend.serving.guard import is_address
from util import InputError

LOCAL = ("127.0.0.1", "::1", "localhost")
MAX_HEAD = 2**18  # bytes of a request's address and headers
MAX_CONNECTIONS = 512
FAREWELL = 3  # seconds that requests have to end once the server is stopped


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to an address of this machine. InputError where that cannot be."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}: a number from 0 (any that is free) to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        try:
            if sys.platform != "win32":  # there it would let two servers have one port
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port {port}: another program listens there; --port names another one") from None
        raise InputError(f"--host {host}, --port {port}: cannot listen there ({error.strerror})") from None
    return bound


def serve(recommender: Recommender, bound: socket.socket, names: Collection[str] = ()) -> None:
    """Answer until Ctrl-C, which raises KeyboardInterrupt once the last answers are out."""
    recommender.search("a first search, which loads what searches need", top=1)
    make_server(recommender, names).run(sockets=[bound])


class Announced(uvicorn.Server):
    """It prints the address once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for bound in sockets or ():
            print(f"{address_of(bound)}  (Ctrl-C ends it)", flush=True)


def make_server(recommender: Recommender, names: Collection[str] = ()) -> uvicorn.Server:
    """Queries are written nowhere."""
    config = uvicorn.Config(
        build_app(recommender, names),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=FAREWELL,
    )
    return Announced(config)


def address_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def names_of(host: str) -> list[str]:
    """The names by which others may ask for this machine, where it listens for others."""
    if host in LOCAL:
        return []
    own = [socket.gethostname(), socket.getfqdn(), *([] if is_address(host) else [host])]
    return sorted({name.lower() for name in own if name})


def warning(host: str) -> str | None:
    """What to tell who lets others in."""
    if host in LOCAL:
        return None
    return (
        f"warning: with --host {host} everyone who reaches this machine can search the index and see its images; "
        "nothing is encrypted, and there is no password"
    )
