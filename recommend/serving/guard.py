"""What every request and every answer goes through: who may ask, and what browsers may do with the answer."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RULES = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": RULES,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
FROM_OTHER_PAGES = ("/",)  # a link may lead there; all else is for our own page, and for programs


class Guard:
    """ASGI: refuses what another web page sends here through the user's browser, and adds the security headers.

    A page whose name an attacker lets point to this machine (DNS rebinding) sends that name as Host: only addresses,
    localhost and the names given are answered.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        """names: host names, lower case, by which this machine is called, beside localhost."""
        self.app, self.names = app, {"localhost", *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in more if pair[0] not in own)]
            await send(message)

        host = headers.get(b"host", "")
        if not self._is_ours(host):
            names = ", ".join(sorted(self.names))
            await _refuse(with_headers, f"this server is not called {host[:100]!r}: ask for an address, or {names}")
        elif scope["path"] not in FROM_OTHER_PAGES and _from_another_page(headers, host):
            await _refuse(with_headers, "another web page may not ask here")
        else:
            await self.app(scope, receive, with_headers)

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        return name in self.names or is_address(name)


def _from_another_page(headers: dict[bytes, str], host: str) -> bool:
    """What browsers say of who asks."""
    origin = headers.get(b"origin")
    return headers.get(b"sec-fetch-site") in ("cross-site", "same-site") or (
        origin is not None and origin.partition("://")[2].lower() != host.lower()
    )


def host_name(host: str) -> str:
    """The name in a Host header: without port and brackets, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, why: str) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
