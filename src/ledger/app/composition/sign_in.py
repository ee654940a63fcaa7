"""The rules of sessions, and the identity provider at which people sign in."""

from datetime import timedelta

from ledger.app.composition.writing import Clock
from ledger.app.settings import Settings
from ledger.features.sign_in.access.grants import Grants
from ledger.features.sign_in.access.session_store import SessionRules


def create_rules(settings: Settings, clock: Clock) -> SessionRules:
    """The rules of sessions in one process; the provider gets its first request at a sign-in."""
    open_id = settings.open_id
    if open_id is not None:
        # Only loaded where a provider is configured.
        from ledger.features.sign_in.access.open_id import OpenIdProvider

        provider = OpenIdProvider(open_id, clock)
    return SessionRules(
        idle=timedelta(seconds=settings.session_idle_seconds),
        seconds=settings.session_seconds,
        allows_tokens=settings.token_sign_in,
        grants=Grants(settings.oidc_grants),
        provider=provider if open_id is not None else None,
    )
