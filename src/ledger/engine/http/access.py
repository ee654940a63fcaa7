"""Who sends a request: the token that it names, and what a process knows tokens by."""

import hmac
from typing import Protocol

from fastapi import Request

from ledger.engine.http.machinery.failures import Failures
from ledger.engine.http.machinery.headers import count, header
from ledger.engine.http.problems import Unauthorized
from ledger.engine.values.principal import Principal

NOT_VALID = "The bearer token is not valid."


class Authenticator(Protocol):
    """Finds the principal of a token (``features/sign_in``)."""

    failures: Failures

    async def authenticate(self, token: str, peer: str | None) -> Principal:
        """The principal of the token that a client with the address ``peer`` sent.

        Raises Unauthorized, or Unavailable if no check is possible.
        """
        ...


async def authenticate(request: Request) -> Principal:
    """The request's principal. Raises Unauthorized."""
    authenticator: Authenticator = request.app.state.services.authenticator
    return await authenticator.authenticate(token_of(request), address_of(request))


def require_token(request: Request, token: str) -> None:
    """Raises Unauthorized unless the request's bearer token is this one."""
    if not hmac.compare_digest(token_of(request).encode(), token.encode()):
        request.app.state.services.authenticator.failures.note(address_of(request))
        raise Unauthorized(NOT_VALID)


def token_of(request: Request) -> str:
    """The bearer token that the request names. Raises Unauthorized."""
    if count(request.scope, b"authorization") > 1:
        # A proxy may have checked the other header.
        raise Unauthorized("Exactly one Authorization header is needed.")
    sent = (header(request.scope, b"authorization") or b"").decode("latin-1")
    scheme, _, token = sent.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("A bearer token is needed.")
    return token.strip()


def address_of(request: Request) -> str | None:
    """The address from which the request came: behind a proxy, the proxy's."""
    return request.client.host if request.client is not None else None
