"""An OpenID provider on loopback that signs a named person in at once, and bends on request.

The provider behaves as a strict one: it checks PKCE and the client, a code works once, and a
refresh token is replaced at each use (an old one ends its whole family). A test changes its
attributes to make it hostile, slow or forgetful::

    provider.person = alice(groups=["ledger-finance"])
    provider.bend(nonce="another")            # claims of the next ID tokens; ... leaves one out
    provider.answers["token"] = Answer(500)   # the answer of an endpoint
"""

import base64
import contextlib
import hashlib
import itertools
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.cookiejar import Cookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import httpx

from ledger.app.composition.api import create_api
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.sign_in.access.sessions import Sessions
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, entered
from tests.support.embedded import folder_in_tmp
from tests.support.facts import ORGANIZATION
from tests.support.provider import OWN, encoded, jwk, signed, with_hmac
from tests.support.receiver import Answer, Receiver, Request
from tests.support.service import Clock, Service, serving
from tests.support.visitor import Visited, Visitor

CLIENT, SECRET = "ledger", "a-secret-of-the-clients-of-32-bytes"
ODD_SECRET = "50%25 of a secret: ü+/&="
PUBLIC = "https://ledger.test"
CALLBACK = f"{PUBLIC}/ui/oidc/callback"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

Claims = dict[str, Any]
Grant = dict[str, Any]
Signer = Callable[[Claims, Claims], str]
"""A maker of tokens, from payload and header."""

FINANCE: Grant = {
    "claim": "groups",
    "value": "ledger-finance",
    "organization_id": ORGANIZATION,
    "permissions": ["read"],
}
"""The grant of the group that most tests' persons are in."""


def alice(**more: Any) -> Claims:
    """The claims of a person with a grant; a claim that is ``...`` is left out."""
    person = {
        "sub": "alice-0001",
        "name": "Alice Moser",
        "email": "alice@example.com",
        "email_verified": True,
        "groups": ["everyone", "ledger-finance"],
    } | more
    return {name: value for name, value in person.items() if value is not ...}


def by_key(name: str) -> Signer:
    """A signer by the private key of a name, published or not."""
    return lambda payload, header: signed(payload, header, name)


def by_secret(secret: str) -> Signer:
    """A signer by HMAC, with a secret that a client also knows."""
    return lambda payload, header: with_hmac(payload, header | {"alg": "HS256"}, secret.encode())


def unsigned(payload: Claims, header: Claims) -> str:
    """A token with the algorithm ``none``."""
    return f"{encoded({'typ': 'JWT', 'alg': 'none'})}.{encoded(payload)}."


class OpenIdProvider(Receiver):
    """A provider with one client; ``secret`` None: the client is public."""

    def __init__(self, secret: str | None = SECRET, key: str = "rsa-1") -> None:
        super().__init__(self._serve_request, accept=lambda _: not self.is_away)
        self.secret, self.key = secret, key
        self.is_away = False
        """True if connections are closed without an answer."""
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        """The clock of its tokens: the service's, once one trusts it."""
        self._numbers = itertools.count(1)
        self.reset()

    def reset(self) -> None:
        """Behave well again, and forget everybody."""
        self.ago = 0.0
        """Seconds by which the instants of its tokens lie before the present."""
        self.person = alice()
        """The person whom the next visit of the authorization endpoint signs in."""
        self.persons: dict[str, Claims] = {}
        """The claims by ``sub`` that a refresh and the userinfo endpoint tell."""
        self.bent: Claims = {}
        self.header: Claims = {}
        self.signer: Signer | None = None
        self.keys = [jwk(self.key)]
        self.metadata: Claims = {}
        """Other members of the discovery document; ... leaves a member out."""
        self.returned: dict[str, Any] = {}
        """Other parameters of the authorization answer; ... leaves a parameter out."""
        self.answers: dict[str, Answer | Callable[[Request], Answer]] = {}
        """Scripted answers: discovery, keys, authorize, token, userinfo, end_session."""
        self.refreshes = True
        """True if there are refresh tokens."""
        self.repeats_id_token = True
        """True if a refresh answers with an ID token too."""
        self.complaints: list[str] = []
        """The faults of the client's requests."""
        self.forms: list[dict[str, str]] = []
        """The forms that the token endpoint received."""
        self.is_away = False
        self._codes: dict[str, dict[str, str]] = {}
        self._refresh: dict[str, tuple[str, str]] = {}
        self._ended: set[str] = set()
        self._access: dict[str, str] = {}
        self.sid = ""
        """The ``sid`` of the latest sign-in."""

    @property
    def issuer(self) -> str:
        return self.url

    def bend(self, **claims: Any) -> None:
        """Put other claims into ID tokens; ... leaves a claim out."""
        self.bent = claims

    def change(self, sub: str = "alice-0001", **claims: Any) -> None:
        """Change a person who has signed in. The next refresh returns the change."""
        changed = self.persons[sub] | claims
        self.persons[sub] = {name: value for name, value in changed.items() if value is not ...}

    def withdraw(self) -> None:
        """End every refresh token: their next use is ``invalid_grant``."""
        self._ended |= {family for family, _ in self._refresh.values()}

    def count(self, grant_type: str) -> int:
        """The number of requests for tokens of this kind."""
        return sum(form.get("grant_type") == grant_type for form in list(self.forms))

    def settings(self, folder: Path) -> dict[str, Any]:
        """The settings of a service that trusts this provider."""
        settings: dict[str, Any] = {
            "oidc_issuer": self.issuer,
            "oidc_client_id": CLIENT,
            "public_url": PUBLIC,
        }
        if self.secret is not None:
            file = folder / "client-secret"
            file.write_text(f"{self.secret}\n")
            settings["oidc_client_secret_file"] = file
        return settings

    def logout_token(self, *, signer: Signer | None = None, **claims: Any) -> str:
        """A token of back-channel logout: name a ``sub`` or a ``sid``; ... leaves a claim out."""
        now = int(self.clock().timestamp() - self.ago)
        header = claims.pop("header", {})
        payload = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_hex(8),
            "events": {LOGOUT_EVENT: {}},
        } | claims
        return self._sign(payload, {"typ": "logout+jwt"} | header, signer)

    def id_token(self, sub: str, sid: str, nonce: str | None = None) -> str:
        """A person's ID token, bent as the test asks."""
        now = int(self.clock().timestamp() - self.ago)
        payload = {
            **self.persons[sub],
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "auth_time": now,
            "sid": sid,
            "nonce": ... if nonce is None else nonce,
        } | self.bent
        return self._sign(payload, self.header, self.signer)

    def _sign(self, payload: Claims, header: Claims, signer: Signer | None) -> str:
        plain = {"typ": "JWT", "alg": OWN[self.key.split("-")[0]], "kid": self.key} | header
        return (signer or by_key(self.key))(_without_gaps(payload), _without_gaps(plain))

    # The endpoints, which run on the server's thread.

    def _serve_request(self, request: Request) -> Answer:
        if self.is_away:
            return Answer(action="drop")
        endpoint = {
            "/.well-known/openid-configuration": "discovery",
            "/keys": "keys",
            "/authorize": "authorize",
            "/token": "token",
            "/userinfo": "userinfo",
            "/end-session": "end_session",
        }.get(urlsplit(request.path).path, "")
        scripted = self.answers.get(endpoint)
        if scripted is not None:
            return scripted(request) if callable(scripted) else scripted
        plain: dict[str, Callable[[Request], Answer]] = {
            "discovery": self._discovery,
            "keys": lambda _: as_json({"keys": self.keys}),
            "authorize": self._authorize,
            "token": self._token,
            "userinfo": self._userinfo,
            "end_session": lambda _: Answer(200, b"Signed out."),
        }
        return plain[endpoint](request) if endpoint else Answer(404)

    def _discovery(self, request: Request) -> Answer:
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/keys",
            "end_session_endpoint": f"{self.url}/end-session",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
            "backchannel_logout_supported": True,
            "backchannel_logout_session_supported": True,
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
        } | self.metadata
        return as_json(_without_gaps(document))

    def _authorize(self, request: Request) -> Answer:
        query = dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True))
        wanted = {"response_type": "code", "client_id": CLIENT, "code_challenge_method": "S256"}
        for name, value in wanted.items():
            self._expect(query.get(name) == value, f"{name} is {query.get(name)!r}")
        for name in ("state", "nonce", "code_challenge"):
            self._expect(len(query.get(name, "")) >= 20, f"{name} is too short")
        self._expect("openid" in query.get("scope", "").split(), "scope lacks openid")
        self.sid = f"sid-{next(self._numbers)}"
        self.persons[self.person["sub"]] = dict(self.person)
        code = secrets.token_urlsafe(16)
        self._codes[code] = query | {"sub": self.person["sub"], "sid": self.sid}
        answer = {"code": code, "state": query["state"], "iss": self.issuer} | self.returned
        address = f"{query['redirect_uri']}?{urlencode(_without_gaps(answer))}"
        return Answer(302, headers={"location": address})

    def _token(self, request: Request) -> Answer:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        self.forms.append(form)
        if not self._is_client(request, form):
            self.complaints.append("the client is not authenticated")
            return as_json({"error": "invalid_client"}, 401)
        if form.get("grant_type") == "authorization_code":
            return self._exchange(form)
        if form.get("grant_type") == "refresh_token":
            return self._refreshed(form)
        return as_json({"error": "unsupported_grant_type"}, 400)

    def _is_client(self, request: Request, form: Mapping[str, str]) -> bool:
        if self.secret is None:
            return form.get("client_id") == CLIENT and "client_secret" not in form
        scheme, _, basic = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            user, _, password = base64.b64decode(basic).decode("latin-1").partition(":")
            # RFC 6749, 2.3.1: both are encoded as in a form.
            credentials = (unquote(user.replace("+", " ")), unquote(password.replace("+", " ")))
        else:
            credentials = (form.get("client_id", ""), form.get("client_secret", ""))
        return credentials == (CLIENT, self.secret)

    def _exchange(self, form: Mapping[str, str]) -> Answer:
        saved = self._codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if (
            saved is None
            or saved["code_challenge"] != base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            or saved["redirect_uri"] != form.get("redirect_uri")
        ):
            return as_json({"error": "invalid_grant"}, 400)
        return self._tokens(saved["sub"], saved["sid"], saved["nonce"], secrets.token_hex(4))

    def _refreshed(self, form: Mapping[str, str]) -> Answer:
        token = form.get("refresh_token", "")
        family, sub = token.split(".")[0], self._refresh.get(token, ("", ""))[1]
        if not sub:
            self._ended.add(family)  # an old token is used again: somebody has stolen it
            self.complaints.append("a refresh token is used twice")
        if not sub or family in self._ended:
            return as_json({"error": "invalid_grant"}, 400)
        del self._refresh[token]
        return self._tokens(sub, token.split(".")[1], None, family)

    def _tokens(self, sub: str, sid: str, nonce: str | None, family: str) -> Answer:
        access = secrets.token_urlsafe(16)
        self._access[access] = sub
        tokens: Claims = {"access_token": access, "token_type": "Bearer", "expires_in": 300}
        if nonce is not None or self.repeats_id_token:
            tokens["id_token"] = self.id_token(sub, sid, nonce)
        if self.refreshes:
            tokens["refresh_token"] = f"{family}.{sid}.{secrets.token_urlsafe(16)}"
            self._refresh[tokens["refresh_token"]] = (family, sub)
        return as_json(tokens)

    def _userinfo(self, request: Request) -> Answer:
        sub = self._access.get(request.headers.get("authorization", "").partition(" ")[2])
        return Answer(401) if sub is None else as_json(self.persons[sub])

    def _expect(self, holds: bool, complaint: str) -> None:
        if not holds:
            self.complaints.append(complaint)


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    plain = {"content-type": "application/json", "cache-control": "no-store"}
    return Answer(status, json.dumps(value).encode(), plain | headers)


def _without_gaps(values: Mapping[str, Any]) -> Claims:
    return {name: value for name, value in values.items() if value is not ...}


class Company(Edge):
    """A running service that trusts a provider, and its file of grants."""

    def __init__(
        self, service: Service, loop: Any, conninfo: str, settings: Settings, grants: Path
    ) -> None:
        super().__init__(service, loop, conninfo)
        self.settings, self.grants = settings, grants
        self._rules = [service.app.state.services.of(Sessions).rules]

    def get(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """Read; the audit log with all that is recorded."""
        if path.startswith("/v1/audit-logs"):
            options.setdefault("headers", self.at_end)
        return super().get(path, token, **options)

    def grant(self, *grants: Grant) -> None:
        """Rewrite the file of grants, and let the nodes read it without waiting."""
        write_grants(self.grants, *grants)
        self.reread_grants()

    def reread_grants(self) -> None:
        """Let the nodes read the file of grants with the next request, as after five seconds."""
        with contextlib.suppress(OSError):
            os.utime(self.grants, (0, 0))
        self.check_grants()

    def check_grants(self) -> None:
        """Let the nodes read the file of grants, which was written just now."""
        for rules in self._rules:
            rules.grants._check_at = -math.inf

    def write_uses(self) -> None:
        """Write the uses of sessions, as every quarter of a minute."""
        self.service.app.state.services.of(Sessions)._uses.run_once()

    def ask_anew(self) -> None:
        """Let the node ask for the provider's description and keys, as after their time."""
        provider = self._rules[0].provider
        provider._load_at = 0.0
        if provider._keys is not None:
            provider._keys._asked_at = provider._keys._fetched_at = -math.inf

    def forget_provider(self) -> None:
        """Let the node know nothing of the provider, as after its start."""
        provider = self._rules[0].provider
        provider._load_at, provider._metadata, provider._keys = 0.0, {}, None

    @contextlib.contextmanager
    def second_node(self) -> Iterator[Edge]:
        """Another node's application, on the same database."""
        app = create_api(self.settings, self.conninfo, self.clock)
        with self.second_worker(app) as node:
            self._rules.append(app.state.services.of(Sessions).rules)
            try:
                yield node
            finally:
                self._rules.pop()


def write_grants(file: Path, *grants: Grant) -> None:
    """Write a file of grants, in one step. (A string of JSON is one of TOML, too.)"""
    text = "".join(
        "[[grant]]\n" + "".join(f"{name} = {_as_toml(value)}\n" for name, value in grant.items())
        for grant in grants
    )
    nobody = {"claim": "groups", "value": "nobody", "organization_id": ORGANIZATION}
    if not text:
        write_grants(file, nobody | {"permissions": ["read"]})
        return
    file.with_suffix(".new").write_text(text)
    os.utime(file.with_suffix(".new"), (0, 0))  # written a while ago
    file.with_suffix(".new").rename(file)


def _as_toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextlib.contextmanager
def signing_in(
    server: EmbeddedPostgres,
    name: str,
    provider: OpenIdProvider,
    grants: tuple[Grant, ...] | None = (FINANCE,),
    **settings: Any,
) -> Iterator[Company]:
    """A running service that signs persons in by the provider, with a database of its own.

    The service's clock starts at the present, and is the provider's too.
    ``grants`` None: there is no file, and the claims of a token are read.
    """
    with folder_in_tmp(0o755) as folder, copied(server.url, name) as conninfo:
        file = folder / "grants.toml"
        more: dict[str, Any] = provider.settings(folder)
        if grants is not None:
            write_grants(file, *grants)
            more["oidc_grants"] = file
        plain = {"master_key": MASTER_KEY, "idle_sweep_seconds": 3600, "watch_seconds": 3600}
        more = plain | more | settings
        options = Settings(**more)
        provider.clock = clock = Clock(datetime.now(UTC))
        with entered(serving(options, conninfo, clock)) as (service, loop):
            yield Company(service, loop, conninfo, options, file)


def choose(person: "Person", tenant: str, next: str = "/ui") -> Visited:
    """Choose an organization, or a workspace of it, on the page that asks."""
    fields = {
        str(field["name"]): str(field.get("value", ""))
        for field in person.get("/ui/place").all('form[action="/ui/place"] input[type=hidden]')
    }
    return person.post("/ui/place", fields | {"place": tenant, "next": next})


def parameters(address: str) -> dict[str, str]:
    """The parameters of an address; each occurs once."""
    pairs = parse_qsl(urlsplit(address).query, keep_blank_values=True)
    assert len(dict(pairs)) == len(pairs), address
    return dict(pairs)


def led_to(page: Visited) -> str:
    """The address that a page leads on to."""
    assert page.status == 200, (page.status, page.text)
    content = str(page.one('meta[http-equiv="refresh"]')["content"])
    delay, _, address = content.partition("; url=")
    assert delay == "0", content
    return address


class Person(Visitor):
    """A visitor whose browser also goes to the provider, and keeps Strict cookies back as one does.

    ``address`` is the public address, where the service's cookies belong.
    """

    def __init__(self, edge: Edge, address: str = PUBLIC) -> None:
        super().__init__(edge)
        self._address = address
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=edge.service.app), base_url=address
        )

    @property
    def cookies(self) -> dict[str, Cookie]:
        """The browser's cookies by name."""
        return {cookie.name: cookie for cookie in self.http.cookies.jar}

    @property
    def session(self) -> str | None:
        """The value of the session's cookie."""
        found = self.cookies.get("__Host-ledger_session") or self.cookies.get("ledger_session")
        return None if found is None else found.value

    def from_elsewhere(self, path: str) -> Visited:
        """Follow a link of another site: the browser sends Lax cookies alone."""
        sent = [
            f"{cookie.name}={cookie.value}"
            for cookie in self.http.cookies.jar
            if (cookie.get_nonstandard_attr("SameSite") or "").lower() == "lax"
            and urlsplit(path).path.startswith(cookie.path)
        ]
        headers = {
            "sec-fetch-site": "cross-site",
            "sec-fetch-mode": "navigate",
            "cookie": "; ".join(sent),
        }
        return self.get(path, headers=headers)

    def from_here(self, path: str) -> Visited:
        """Follow a link of the service's own page."""
        headers = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
        return self.get(path, headers=headers)

    def leave(self, next: str | None = None) -> str:
        """Press the button: the address at the provider that the service leads to."""
        query = "" if next is None else f"?{urlencode({'next': next})}"
        answer = self.from_here(f"/ui/oidc/sign-in{query}")
        assert answer.status == 303, (answer.status, answer.text)
        return answer.location

    def visit(self, address: str) -> str:
        """Sign in at the provider; return the path of the callback that it leads back to."""
        answer = httpx.get(address, verify=False)
        assert answer.status_code == 302, answer.text
        back = answer.headers["location"]
        assert back.startswith(f"{self._address}/"), back
        assert urlsplit(back).path.endswith("/ui/oidc/callback"), back
        return str(back.removeprefix(self._address))

    def come_back(self, path: str) -> Visited:
        """Follow the provider's redirect, and the page that leads on to the same address."""
        return self.from_here(led_to(self.from_elsewhere(path)))

    def arrive(self, next: str | None = None) -> Visited:
        """The whole sign-in: the answer of the callback, a session or a refusal."""
        return self.come_back(self.visit(self.leave(next)))

    def signed_in(self, next: str | None = None) -> "Person":
        """Be signed in, which must succeed."""
        led_to(self.arrive(next))
        assert self.session is not None
        return self

    def is_signed_in(self, path: str = "/ui") -> bool:
        """True if a page opens, rather than a request to sign in."""
        status = self.get(path).status
        assert status in (200, 401), status
        return status == 200

    def on(self, edge: Edge) -> "Person":
        """The same browser, whose next requests another node answers."""
        other = Person(edge, self._address)
        other.http.cookies = httpx.Cookies(self.http.cookies)
        return other
