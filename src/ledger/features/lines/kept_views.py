"""A person's saved views of the board, and the person's name, in a cookie of the browser."""

import base64
import binascii
from typing import Annotated

import msgspec
from fastapi import Request
from msgspec import Meta

COOKIE = "ledger_views"


class SavedView(msgspec.Struct, array_like=True):
    """A view that a person saved."""

    name: Annotated[str, Meta(max_length=40)]
    address: Annotated[str, Meta(max_length=1000)]


class Saved(msgspec.Struct, array_like=True):
    """The saved values: the person's name as an assignee, and the views."""

    me: Annotated[str, Meta(max_length=200)] = ""
    views: Annotated[list[SavedView], Meta(max_length=30)] = msgspec.field(default_factory=list)


def saved_in(request: Request) -> Saved:
    """The saved values; empty if the cookie is not of this form."""
    try:
        raw = base64.urlsafe_b64decode(request.cookies.get(COOKIE, "") + "==")
        return msgspec.json.decode(raw, type=Saved)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return Saved()
