"""What the writing routes share: bodies under a cap, commands to the writer, waiting for views."""

from collections.abc import Sequence

from fastapi import Request

from ledger.api.problems import BadRequest, UnsupportedMediaType
from ledger.api.reading import services_of
from ledger.application.unit import Command, Outcome, Receipt
from ledger.domain.errors import LedgerError, TooLarge


def media_type(request: Request) -> str:
    """The body's media type in lower case. Raises UnsupportedMediaType for other charsets."""
    essence, *parameters = request.headers.get("content-type", "").lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.strip() == "charset" and value.strip(' "') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("Only UTF-8 is taken.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedMediaType("Compressed bodies are not taken.")
    return essence.strip()


async def read_capped(request: Request, limit: int) -> bytes:
    """The body. Raises TooLarge, as soon as that is known, above ``limit`` bytes."""
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:19]) > limit:
        raise TooLarge("The body is too large.")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge("The body is too large.")
        parts.append(part)
    return b"".join(parts)


async def read_body(request: Request, limit: int, *, optional: bool) -> bytes:
    """A command's JSON body; may be empty where it is optional, whatever its content type."""
    raw = await read_capped(request, limit)
    if not raw and optional:
        return raw
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")
    if not raw.strip():
        raise BadRequest("The body is empty.")
    return raw


async def submit(request: Request, commands: Sequence[Command]) -> list[Outcome]:
    """Outcomes in order, once the views show them (or after 2 s: a view must not hang a writer)."""
    return await services_of(request).submissions.submit(commands)


async def execute(request: Request, command: Command) -> Receipt:
    """One command's receipt. Raises its refusal."""
    outcome = (await submit(request, [command]))[0]
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome
