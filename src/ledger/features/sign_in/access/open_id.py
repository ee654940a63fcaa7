"""The identity provider at which people sign in: OpenID Connect (contract, Sign-in).

Authlib's Starlette client makes the address of the provider, with PKCE, and exchanges the code.
The rules and keys of tokens (``json_web_tokens.py``, ``key_set.py``) check signatures, authlib
checks the claims of ID tokens, and this module checks what else a client must refuse.

    begin ─▶ provider ─▶ callback ─▶ finish ─▶ SignedIn ─▶ … 5 minutes of use ─▶ refresh ─▶ …
"""

import asyncio
import base64
import logging
import math
import re
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import quote_plus, urlencode, urlsplit

import httpx2
import msgspec
from authlib.integrations.starlette_client import OAuth, OAuthError
from authlib.oidc.core import CodeIDToken
from joserfc.errors import JoseError

from ledger.engine.http.problems import BadRequest
from ledger.engine.tls import trusting_context
from ledger.engine.values.errors import LedgerError, Unavailable
from ledger.engine.values.origins import is_guarded
from ledger.features.sign_in.access.json_web_tokens import (
    LEEWAY_SECONDS,
    SUBJECT,
    CheckedToken,
    verified,
)
from ledger.features.sign_in.access.key_set import KeySet, UnusableAnswer, download, read_bounded
from ledger.features.sign_in.settings import OpenId

_logger = logging.getLogger(__name__)

_AT_ONCE = 16
"""Concurrent requests to the provider for sign-ins: strangers may begin any number."""

DEADLINE_SECONDS = 8.0
"""The time limit of all requests to the provider for one sign-in: a person waits for it."""

REFRESH_SECONDS = 3.5
"""The time limit of each of the two requests of a refresh: for tokens and for claims."""

LOGOUT_SECONDS = 120.0
"""The most that a logout token's instant may differ from now."""

LONGEST_ID_TOKEN = 64 * 1024
"""The most characters of an ID token or logout token: one may name hundreds of groups."""

_LAST_INSTANT = 253_402_300_799
"""Seconds from 1970 to the last second of the year 9999."""

_LONGEST_HINT = 4000

_METADATA_SECONDS = 3600.0
_AGAIN_SECONDS = 15.0
"""Between two attempts to load the provider's description, while an older one is known."""

_ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "jwks_uri",
    "userinfo_endpoint",
    "end_session_endpoint",
)
_NEEDED = _ENDPOINTS[:3]

_ADDRESS = frozenset({"email", "email_verified"})
"""The claims that must come from one answer: otherwise one verifies another's address."""

_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

_ID_TYPES = frozenset({"jwt", "application/jwt"})
_LOGOUT_TYPES = _ID_TYPES | {"logout+jwt", "application/logout+jwt"}

_AWAY = ("server_error", "temporarily_unavailable")
"""The errors by which a provider says that it cannot answer now."""

_NO_CODE = re.compile(r"[^\x21\x23-\x5b\x5d-\x7e]+")
"""Characters that the code of an error may not have (RFC 6749, 5.2), and blanks."""

_PUBLIC_CODES = frozenset({
    "access_denied", "account_selection_required", "consent_required", "interaction_required",
    "invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "login_required",
    "server_error", "temporarily_unavailable", "unauthorized_client",
})  # fmt: skip
"""The error codes that the page may repeat; the address may contain any text."""


class SignInRefused(BadRequest):
    """The provider did not sign the person in, or its answer is not valid."""


class NoLongerGranted(Exception):
    """The provider gives no more tokens for this person: the session ends."""


class SignInFlow(msgspec.Struct, frozen=True):
    """A sign-in under way, in the browser's cookie until the provider's answer."""

    state: str
    nonce: str
    verifier: str
    next: str
    expires: int


class SignedIn(NamedTuple):
    """A person whom the provider has signed in."""

    sub: str
    sid: str | None
    claims: Mapping[str, Any]
    signed_at: datetime
    """By the provider's clock."""
    id_token: str
    refresh_token: str | None


class Refreshed(NamedTuple):
    """The provider's answer about a person whom it still knows."""

    refresh_token: str
    """The next one: the former may be used up, whatever else the answer contains."""
    id_token: str | None = None
    claims: Mapping[str, Any] | None = None
    """None if the provider gives no claims at a refresh, or if they are unreadable."""
    failure: LedgerError | None = None


class Logout(NamedTuple):
    """The sessions that a logout token ends: of a person, or of one session at the provider."""

    sub: str | None
    sid: str | None
    at: datetime


class OpenIdProvider:
    """The provider, in one process. All methods raise Unavailable while it is away."""

    def __init__(self, config: OpenId, clock: Callable[[], datetime]) -> None:
        self.config, self._clock = config, clock
        self._ssl_context = trusting_context()
        self._app: Any = OAuth().register(
            "provider",
            client_id=config.client_id,
            client_secret=config.client_secret,
            client_auth_methods=[("client_secret_basic", _basic)],
            client_kwargs={
                "scope": config.scopes,
                "code_challenge_method": "S256",
                "timeout": DEADLINE_SECONDS,
                "follow_redirects": False,
                "headers": {"Accept-Encoding": "identity"},
                "transport": _Bounded(self._ssl_context),
            },
        )
        self._metadata: Mapping[str, Any] = {}
        self._load_at = 0.0
        """Load the description again from this instant of the monotonic clock."""
        self._loading = asyncio.Lock()
        self._keys: KeySet | None = None
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def begin(self, next_page: str, expires: int) -> tuple[str, SignInFlow]:
        """The address at the provider, and the flow that begins there."""
        with _provider_failures():
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._load()
                made = await self._app.create_authorization_url(self.config.redirect_uri)
        flow = SignInFlow(made["state"], made["nonce"], made["code_verifier"], next_page, expires)
        return made["url"], flow

    async def finish(
        self, flow: SignInFlow, answer: Mapping[str, str], wanted: Collection[str]
    ) -> SignedIn:
        """The person of the provider's answer. Raises SignInRefused.

        ``wanted`` are the claims to request from its endpoint if the ID token lacks them.
        """
        with _provider_failures():
            async with asyncio.timeout(DEADLINE_SECONDS), self._slots:
                metadata = await self._load()
                self._require_issuer(answer.get("iss"), metadata)
                if (error := answer.get("error")) is not None:
                    raise _refused(error)
                if not answer.get("code"):
                    raise SignInRefused("The identity provider's answer has no code.")
                token = await self._app.fetch_access_token(
                    redirect_uri=self.config.redirect_uri,
                    code=answer["code"],
                    code_verifier=flow.verifier,
                )
                checked = await self._of_id_token(token, flow.nonce)
                try:
                    claims = await self._completed(checked.claims, token, wanted)
                except NoLongerGranted as error:
                    raise SignInRefused(
                        "The identity provider tells the claims of somebody else."
                    ) from error
        return SignedIn(
            checked.claims["sub"],
            _text(checked.claims.get("sid")),
            claims,
            datetime.fromtimestamp(checked.claims["iat"], UTC),
            token["id_token"],
            _text(token.get("refresh_token")),
        )

    async def refresh(self, refresh_token: str, sub: str, wanted: Collection[str]) -> Refreshed:
        """Request fresh claims of a person. Raises NoLongerGranted, or SignInRefused.

        No scope is named: the provider may have granted less than the sign-in requested, and would
        refuse to widen it (RFC 6749, 6).
        """
        with _provider_failures():
            async with asyncio.timeout(REFRESH_SECONDS):
                await self._load()
                try:
                    token = await self._app.fetch_access_token(
                        grant_type="refresh_token", refresh_token=refresh_token, scope=None
                    )
                except OAuthError as error:
                    if error.error == "invalid_grant":
                        raise NoLongerGranted from error
                    if (code := _code_of(error)) not in _AWAY:
                        _logger.warning("the identity provider refuses to refresh: %s", code)
                    raise
        refreshed = Refreshed(_text(token.get("refresh_token")) or refresh_token)
        try:
            with _provider_failures():
                async with asyncio.timeout(REFRESH_SECONDS):
                    return await self._claims_of(token, sub, wanted, refreshed)
        except LedgerError as error:
            return refreshed._replace(failure=error)

    async def _claims_of(
        self, token: Mapping[str, Any], sub: str, wanted: Collection[str], refreshed: Refreshed
    ) -> Refreshed:
        id_token = _text(token.get("id_token"))
        claims: Mapping[str, Any] | None = None
        if id_token is not None:
            claims = (await self._of_id_token(token, None)).claims
        if claims is not None or "userinfo_endpoint" in self._metadata:
            claims = await self._completed(claims or {"sub": sub}, token, wanted)
        if claims is not None and claims["sub"] != sub:
            raise NoLongerGranted
        return refreshed._replace(id_token=id_token, claims=claims)

    async def logout_of(self, token: str) -> Logout | None:
        """The sessions to end; None for a refused token (OpenID Back-Channel Logout 1.0, 2.6)."""
        with _provider_failures():
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._load()
                found = await self._verified(token, _LOGOUT_TYPES)
        return None if found is None else _logout(found.claims, self.config, self._now())

    async def end_address(self, id_token: str | None) -> str | None:
        """The address that ends the provider's own session; None without one, or without an answer.

        A person who signs out here must not wait for a provider that is away.
        """
        try:
            with _provider_failures():
                async with asyncio.timeout(REFRESH_SECONDS):
                    metadata = await self._load()
        except Unavailable:
            return None
        endpoint = metadata.get("end_session_endpoint")
        if endpoint is None:
            return None
        parameters = {
            "client_id": self.config.client_id,
            "post_logout_redirect_uri": f"{self.config.public_url}/",
        }
        if id_token is not None and len(id_token) <= _LONGEST_HINT:
            parameters["id_token_hint"] = id_token
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"

    def _now(self) -> float:
        return self._clock().timestamp()

    def _require_issuer(self, issuer: str | None, metadata: Mapping[str, Any]) -> None:
        """Refuse an answer of another provider (RFC 9207)."""
        is_required = metadata.get("authorization_response_iss_parameter_supported") is True
        if issuer != self.config.issuer and (issuer is not None or is_required):
            raise SignInRefused("The answer comes from another identity provider.")

    async def _load(self) -> Mapping[str, Any]:
        """Load the provider's description. A failure leaves the former one."""
        async with self._loading:
            if time.monotonic() >= self._load_at:
                await self._load_anew()
        if not self._metadata:
            raise UnusableAnswer("it could not be asked for its description a moment ago")
        return self._metadata

    async def _load_anew(self) -> None:
        url = f"{self.config.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            document = msgspec.json.decode(
                await download(url, self._ssl_context, "application/json")
            )
            metadata = _checked(document, self.config.issuer)
        except Exception as error:
            if not self._metadata:
                self._load_at = time.monotonic() + 1
                raise
            _logger.warning("the description of the identity provider stays: %s", error)
            self._load_at = time.monotonic() + _AGAIN_SECONDS
            return
        if self._keys is None or metadata["jwks_uri"] != self._metadata["jwks_uri"]:
            self._keys = KeySet(metadata["jwks_uri"])
        self._metadata, self._load_at = metadata, time.monotonic() + _METADATA_SECONDS
        methods = metadata.get("token_endpoint_auth_methods_supported")
        if self.config.client_secret is not None:
            method = _method_for(self.config.client_secret, methods)
            self._app.client_kwargs["token_endpoint_auth_method"] = method
        self._app.server_metadata = {
            name: metadata[name] for name in _ENDPOINTS if name in metadata
        }

    async def _verified(self, token: Any, types: Collection[str]) -> CheckedToken | None:
        """The header and claims of a token that the provider signed; None if it did not."""
        assert self._keys is not None
        await self._keys.renew()
        if not isinstance(token, str) or len(token) > LONGEST_ID_TOKEN:
            return None
        return await verified(token, self._keys, types)

    async def _of_id_token(self, token: Mapping[str, Any], nonce: str | None) -> CheckedToken:
        """The claims of the ID token (OpenID Connect Core, 3.1.3.7). Raises SignInRefused."""
        found = await self._verified(token.get("id_token"), _ID_TYPES)
        if found is None:
            raise SignInRefused(
                "The identity provider's ID token is not signed by one of its keys."
            )
        parameters = {"client_id": self.config.client_id, "access_token": token.get("access_token")}
        options = {
            "iss": {"essential": True, "value": self.config.issuer},
            "aud": {"essential": True, "value": self.config.client_id},
        }
        if nonce is not None:
            parameters["nonce"] = nonce
        claims = CodeIDToken(found.claims, found.header, options, parameters)
        try:
            claims.validate(int(self._now()), int(LEEWAY_SECONDS))
        except (JoseError, TypeError, ValueError) as error:
            wrong = getattr(error, "claim", None) or "a claim"
            raise SignInRefused(
                f"The identity provider's ID token is not valid: {wrong}."
            ) from error
        iat, exp = found.claims["iat"], found.claims["exp"]
        if not _is_number(exp) or not _is_number(iat) or not 0 <= iat <= _LAST_INSTANT:
            raise SignInRefused("The identity provider's ID token is not valid: iat or exp.")
        audience = found.claims["aud"]
        if isinstance(audience, list) and len(audience) > 1 and "azp" not in found.claims:
            raise SignInRefused("The identity provider's ID token is for others too.")
        if not SUBJECT.fullmatch(str(found.claims["sub"])):
            raise SignInRefused("The identity provider's name of you is no plain text (sub).")
        return found

    async def _completed(
        self, claims: Mapping[str, Any], token: Mapping[str, Any], wanted: Collection[str]
    ) -> Mapping[str, Any]:
        """Add the claims that only the provider's userinfo endpoint has."""
        if not claims.keys() >= _ADDRESS:
            claims = {name: value for name, value in claims.items() if name not in _ADDRESS}
        endpoint = self._metadata.get("userinfo_endpoint")
        if endpoint is None or claims.keys() >= _ADDRESS.union(wanted):
            return claims
        bearer = _text(token.get("access_token"))
        body = await download(endpoint, self._ssl_context, "application/json", bearer)
        userinfo = msgspec.json.decode(body)
        if not isinstance(userinfo, dict) or userinfo.get("sub") != claims["sub"]:
            raise NoLongerGranted
        return {**userinfo, **claims}


class _Bounded(httpx2.AsyncBaseTransport):
    """Limits answers to authlib's client, which would read them whole, as all others."""

    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        async with httpx2.AsyncHTTPTransport(verify=self._ssl_context, trust_env=False) as inner:
            answer = await inner.handle_async_request(request)
            body = await read_bounded(answer.aiter_raw())
        # Without its headers: an unrequested compression stays, and is invalid JSON.
        return httpx2.Response(answer.status_code, content=body)


def _logout(claims: Mapping[str, Any], config: OpenId, now: float) -> Logout | None:
    iat, exp, events = claims.get("iat"), claims.get("exp"), claims.get("events")
    sub, sid = _text(claims.get("sub")), _text(claims.get("sid"))
    audience = claims.get("aud")
    if (
        claims.get("iss") != config.issuer
        or config.client_id not in (audience if isinstance(audience, list) else [audience])
        or not _is_number(iat)
        or not 0 <= iat <= _LAST_INSTANT
        or abs(now - iat) > LOGOUT_SECONDS
        or (exp is not None and not (_is_number(exp) and now < exp + LEEWAY_SECONDS))
        or not isinstance(events, dict)
        or not isinstance(events.get(_LOGOUT_EVENT), dict)
        or "nonce" in claims
        or (sub is None and sid is None)
        or (sub, sid) != (claims.get("sub"), claims.get("sid"))
    ):
        return None
    return Logout(sub, sid, datetime.fromtimestamp(iat, UTC))


def _basic(
    client: Any, method: str, uri: str, headers: dict[str, str], body: str
) -> tuple[str, dict[str, str], str]:
    """Identify the client by HTTP Basic, each part form-encoded (RFC 6749, 2.3.1)."""
    credentials = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
    headers["Authorization"] = f"Basic {base64.b64encode(credentials.encode()).decode()}"
    return uri, headers, body


def _method_for(secret: str, offered: Any) -> str:
    """How the client sends its secret: by HTTP Basic, which every provider accepts.

    Not every provider decodes it: a secret that its encoding changes goes into the body.
    """
    methods = offered if isinstance(offered, list) else []
    is_plain = quote_plus(secret) == secret and "client_secret_basic" in methods
    is_in_body = "client_secret_post" in methods and not is_plain
    return "client_secret_post" if is_in_body else "client_secret_basic"


def _checked(document: Any, issuer: str) -> Mapping[str, Any]:
    """Validate a provider's description. Raises ValueError for another's, or a broken one."""
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError("the description is of another issuer")
    for name in _ENDPOINTS:
        if name not in document and name not in _NEEDED:
            continue
        url = urlsplit(document[name])
        if not is_guarded(url.scheme, url.hostname or ""):
            raise ValueError(f"{name} must be https, unless the host is this machine")
    return document


@contextmanager
def _provider_failures() -> Iterator[None]:
    """Raise Unavailable for any failure of the provider to answer properly."""
    try:
        yield
    except (LedgerError, NoLongerGranted):
        raise
    except Exception as error:
        # For an invalid answer, a library may raise any exception.
        code = _code_of(error) if isinstance(error, OAuthError) else None
        if code is not None and code not in _AWAY:
            raise _refused(code) from error
        why = code or str(error) or type(error).__name__
        _logger.warning("the identity provider gave no answer: %s", why)
        raise Unavailable(
            "The identity provider does not answer. Try again in a moment."
        ) from error


def _refused(code: str) -> SignInRefused:
    word = code if code in _PUBLIC_CODES else "an error"
    return SignInRefused(f"The identity provider did not sign you in: {word}.")


def _code_of(error: OAuthError) -> str:
    """The code of a provider's error, which may be any JSON; nothing else may be logged."""
    code = error.error if isinstance(error.error, str) else ""
    return _NO_CODE.sub("", code)[:60] or "an error"


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value and value.isprintable() else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
