"""The answers to visitors whom a page refuses because they have no session."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from ledger.engine.http.problems import Unauthorized, status_of
from ledger.engine.http.reading import services_of
from ledger.engine.page.addresses import HOME, here, with_parameter
from ledger.engine.page.pages import go, show
from ledger.engine.values.errors import LedgerError
from ledger.features.sign_in.access.refreshing import Unconfirmed
from ledger.features.sign_in.page import session


def sign_in(request: Request, error: LedgerError, context: Mapping[str, Any]) -> Response | None:
    """The page on which a visitor signs in or chooses a tenant; None for another refusal."""
    if isinstance(error, session.TenantNotChosen):
        return go(with_parameter("/ui/place", "next", here(request)))
    if not isinstance(error, Unauthorized):
        return None
    request.state.principal = request.state.session = None
    if session.comes_from_elsewhere(request):
        return show(request, "arrival.html", next=here(request))
    values = {"next": here(request), "reason": error.detail, **context}
    response = sign_in_page(request, status_of(error), **values)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def sign_in_page(request: Request, status: int = 200, **context: Any) -> Response:
    rules = session.sessions_of(request).rules
    provider = rules.provider and rules.provider.config.name
    return show(
        request,
        "sign_in.html",
        status,
        provider=provider,
        takes_tokens=rules.allows_tokens,
        idle=rules.idle,
        **context,
    )


def sign_in_again(request: Request, error: LedgerError) -> str | None:
    """The address of a new sign-in, for a session that the provider does not confirm."""
    if not isinstance(error, Unconfirmed) or services_of(request).only_reads:
        return None
    target = here(request) if request.method in ("GET", "HEAD") else HOME
    return with_parameter("/ui/oidc/sign-in", "next", target)
