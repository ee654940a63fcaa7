"""The service below a prefix of another server's paths (contract, Access).

A proxy may serve us as ``/ledger``. Some proxies strip the prefix from a request's path, others
pass it on: both are taken. All code behind this module sees paths without the prefix, and writes
addresses without it. Here the addresses in an answer's headers get the prefix; those in pages get
it in ``web/pages.py``.
"""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COOKIE_PATH = re.compile(rb"(; path=)(/[^;]*)", re.IGNORECASE)


class RootPath:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix
        self._raw = prefix.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the prefix off the request's path, and put it on the answer's addresses."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_prefixed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, self._prefixed(name, value)) for name, value in message["headers"]
                ]
            await send(message)

        path = without_prefix(scope["path"], self._prefix)
        await self._app({**scope, "path": path}, receive, send_prefixed)

    def _prefixed(self, name: bytes, value: bytes) -> bytes:
        if name == b"location" and value.startswith(b"/"):
            return self._raw + value
        if name == b"set-cookie":
            return _COOKIE_PATH.sub(self._widened, value)
        return value

    def _widened(self, found: re.Match[bytes]) -> bytes:
        # Not "/ledger/": the address of the front page may be "/ledger".
        return found[1] + self._raw + (b"" if found[2] == b"/" else found[2])


def without_prefix(path: str, prefix: str) -> str:
    """A path as the service names it, whether or not it begins with the prefix."""
    if path == prefix:
        return "/"
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path
