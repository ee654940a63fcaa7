"""HEAD: the answer of GET without its body (RFC 9110, 9.3.2), on every path that supports GET."""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_IS_HEAD = "ledger.is_head"


async def answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Have the application answer a GET, and pass on only the start of the answer.

    A streamed answer is told that its reader has disconnected.
    """

    async def send_start(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})
        elif message.get("more_body"):
            raise ClientDisconnect

    # The server keeps the scope with HEAD in it, and therefore sends no body.
    await app({**scope, "method": "GET", _IS_HEAD: True}, receive, send_start)


def is_head(scope: Scope) -> bool:
    """Whether the answer will be sent without its body."""
    return _IS_HEAD in scope
