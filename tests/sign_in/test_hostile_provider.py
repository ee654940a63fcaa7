"""A provider that is hostile, broken, slow or gone signs nobody in, and holds nobody up."""

import gzip
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.sign_in.access.open_id import DEADLINE_SECONDS
from tests.support.openid import (
    CLIENT,
    FINANCE,
    PUBLIC,
    SECRET,
    Claims,
    Company,
    OpenIdProvider,
    Person,
    Signer,
    alice,
    as_json,
    by_key,
    by_secret,
    led_to,
    signing_in,
    unsigned,
)
from tests.support.provider import jwk, public_pem
from tests.support.receiver import Answer, Receiver, Request

HOUR = 3600


def refused(guest: Person, status: int = 400) -> str:
    """Assert that the whole way ends in a refusal, and no session; the text of the page."""
    answer = guest.arrive()
    assert answer.status == status, (answer.status, answer.text)
    assert guest.session is None
    assert "traceback" not in answer.text.lower()
    return answer.text


WRONG: dict[str, Callable[[int], Claims]] = {
    "another issuer": lambda _: {"iss": "https://evil.example"},
    "an issuer with a slash more": lambda _: {"iss": "{issuer}/"},
    "no issuer": lambda _: {"iss": ...},
    "another audience": lambda _: {"aud": "billing"},
    "an audience with a blank": lambda _: {"aud": f"{CLIENT} "},
    "audiences of others": lambda _: {"aud": ["billing", "shop"]},
    "no audience": lambda _: {"aud": ...},
    "an empty audience": lambda _: {"aud": []},
    "several audiences, of another authorized party": lambda _: {
        "aud": [CLIENT, "billing"],
        "azp": "billing",
    },
    "another authorized party": lambda _: {"azp": "billing"},
    "another nonce": lambda _: {"nonce": "n" * 43},
    "no nonce": lambda _: {"nonce": ...},
    "an empty nonce": lambda _: {"nonce": ""},
    "a nonce that is a list": lambda _: {"nonce": ["n"]},
    "an end in the past": lambda at: {"exp": at - 60},
    "no end": lambda _: {"exp": ...},
    "an end that is text": lambda at: {"exp": str(at + 300)},
    "no instant of issue": lambda _: {"iat": ...},
    "an instant of issue in the future": lambda at: {"iat": at + HOUR},
    "a beginning in the future": lambda at: {"nbf": at + HOUR},
    "no subject": lambda _: {"sub": ...},
    "an empty subject": lambda _: {"sub": ""},
    "a subject that is a number": lambda _: {"sub": 7},
    "a long subject": lambda _: {"sub": "s" * 256},
    "a subject with a line break": lambda _: {"sub": "alice\nbob"},
    "a subject with NUL": lambda _: {"sub": "alice\x00"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_an_id_token_with_a_wrong_claim_signs_nobody_in(
    company: Company, openid: OpenIdProvider, wrong: Callable[[int], Claims]
) -> None:
    claims = wrong(int(time.time()))
    if claims.get("iss") == "{issuer}/":
        claims["iss"] = f"{openid.issuer}/"
    openid.bend(**claims)
    refused(Person(company))


SIGNERS: dict[str, tuple[Signer | None, Claims]] = {
    "the algorithm none": (unsigned, {}),
    "an HMAC by the client's secret": (by_secret(SECRET), {}),
    "an HMAC by the public key": (by_secret(public_pem("rsa-1").decode()), {}),
    "a foreign key by the same name": (by_key("rsa-2"), {}),
    "a foreign key by its own name": (by_key("rsa-2"), {"kid": "rsa-2"}),
    "another algorithm than the key's": (None, {"alg": "PS256"}),
    "no name of a key": (None, {"kid": ...}),
    "a name of a key that is a list": (None, {"kid": ["rsa-1"]}),
    "a key of its own": (by_key("rsa-2"), {"kid": "rsa-2", "jwk": jwk("rsa-2")}),
    "an extension that must be understood": (None, {"crit": ["b64"], "b64": False}),
    "the type of a logout token": (None, {"typ": "logout+jwt"}),
}


@pytest.mark.parametrize(("signer", "header"), SIGNERS.values(), ids=SIGNERS.keys())
def test_an_id_token_with_a_wrong_signature_signs_nobody_in(
    company: Company, openid: OpenIdProvider, signer: Signer | None, header: Claims
) -> None:
    openid.signer, openid.header = signer, header
    refused(Person(company))


def test_a_key_that_the_provider_publishes_later_signs_in(
    company: Company, openid: OpenIdProvider
) -> None:
    company.ask_anew()
    openid.keys = [jwk("rsa-1"), jwk("ec-7")]
    openid.signer, openid.header = by_key("ec-7"), {"kid": "ec-7", "alg": "ES256"}
    Person(company).signed_in()


@pytest.mark.parametrize("iss", ["https://evil.example", "{issuer}/", "", ...])
def test_an_answer_of_another_issuer_is_refused_before_its_code_is_sent(
    company: Company, openid: OpenIdProvider, iss: Any
) -> None:
    """A code of another provider must not be sent to this one, nor the reverse (mix-up)."""
    issuer = iss.format(issuer=openid.issuer) if isinstance(iss, str) else iss
    openid.returned = {"iss": issuer}
    refused(Person(company))
    assert openid.count("authorization_code") == 0


TOKEN_ANSWERS: dict[str, tuple[Answer, int]] = {
    "a refusal of the code": (as_json({"error": "invalid_grant"}, 400), 400),
    "a refusal of the client": (as_json({"error": "invalid_client"}, 401), 400),
    "a fault": (Answer(500, b"<html>oops"), 503),
    "overload": (Answer(503, headers={"retry-after": "3"}), 503),
    "a page": (Answer(200, b"<html>hello", {"content-type": "text/html"}), 503),
    "no body": (Answer(200), 503),
    "a list": (as_json(["id_token"]), 503),
    "a number": (as_json(7), 503),
    "deep brackets": (Answer(200, b"[" * 100_000), 503),
    "half of a document": (Answer(200, b'{"id_token": "'), 503),
    "bytes that are no text": (Answer(200, b"\xff\xfe\x00"), 503),
    "no ID token": (as_json({"access_token": "a", "token_type": "Bearer"}), 400),
    "an ID token that is a number": (as_json({"access_token": "a", "id_token": 7}), 400),
    "an ID token that is none": (as_json({"access_token": "a", "id_token": "a.b.c"}), 400),
    "a document of 20 MB": (Answer(200, b" " * 20_000_000), 503),
    "a closed connection": (Answer(action="drop"), 503),
    "no HTTP": (Answer(body=b"220 mail.example.com ESMTP\r\n", action="raw"), 503),
}


@pytest.mark.parametrize(("answer", "status"), TOKEN_ANSWERS.values(), ids=TOKEN_ANSWERS.keys())
def test_a_broken_answer_of_the_token_endpoint_signs_nobody_in(
    company: Company, openid: OpenIdProvider, answer: Answer, status: int
) -> None:
    openid.answers["token"] = answer
    text = refused(Person(company), status)
    assert "oops" not in text
    assert "hello" not in text
    openid.answers.clear()
    Person(company).signed_in()


def test_a_redirect_of_the_token_endpoint_is_not_followed_with_the_secret(
    company: Company, openid: OpenIdProvider
) -> None:
    with Receiver() as elsewhere:
        for status in (302, 307, 308):
            location = {"location": f"{elsewhere.url}/token"}
            openid.answers["token"] = Answer(status, headers=location)
            refused(Person(company), 503)
        assert elsewhere.requests == []


def test_a_slow_provider_is_abandoned_within_ten_seconds(
    company: Company, openid: OpenIdProvider
) -> None:
    """Each byte comes in time, but not the answer."""
    openid.answers["token"] = Answer(body=b" " * 1000, action="drip", delay_seconds=0.5)
    guest = Person(company)
    path = guest.visit(guest.leave())
    began = time.monotonic()
    assert guest.from_here(path).status == 503
    assert time.monotonic() - began < 10.5
    assert guest.session is None


def test_a_provider_that_is_gone_leaves_tokens_and_pages_alone(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = Person(company)
    path = guest.visit(guest.leave())
    openid.is_away = True
    answer = guest.from_here(path)
    assert answer.status == 503
    assert answer.answer.headers["retry-after"]
    assert Person(company).get("/").status == 200
    by_token = Person(company)
    assert by_token.sign_in(company.token("read")).status == 303
    assert by_token.is_signed_in()


def test_a_callback_that_the_provider_failed_leaves_no_flow_and_a_new_one_succeeds(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = Person(company)
    openid.answers["token"] = Answer(503)
    path = guest.visit(guest.leave())
    assert guest.from_here(path).status == 503
    openid.answers.clear()
    assert guest.from_here(path).status == 400, "its flow is over"
    guest.signed_in()


DISCOVERY: dict[str, Claims] = {
    "another issuer": {"issuer": "https://evil.example"},
    "no issuer": {"issuer": ...},
    "no token endpoint": {"token_endpoint": ...},
    "a token endpoint without TLS": {"token_endpoint": "http://192.0.2.1/token"},
    "keys without TLS": {"jwks_uri": "http://192.0.2.1/keys"},
    "an authorization endpoint that is script": {"authorization_endpoint": "javascript:alert(1)"},
    "an authorization endpoint without TLS": {"authorization_endpoint": "http://192.0.2.1/"},
}


@pytest.fixture
def started(company: Company) -> Iterator[Company]:
    """The service as after its start: it knows nothing of its provider, then or afterwards."""
    company.forget_provider()
    yield company
    company.forget_provider()


def test_a_wrong_discovery_document_is_503_and_mended_without_a_start(
    started: Company, openid: OpenIdProvider
) -> None:
    for name, metadata in DISCOVERY.items():
        openid.metadata = metadata
        started.ask_anew()
        assert Person(started).from_here("/ui/oidc/sign-in").status == 503, name
    openid.metadata = {}
    for broken in (Answer(500), Answer(200, b"<html>"), as_json([]), Answer(action="drop")):
        openid.answers["discovery"] = broken
        started.ask_anew()
        assert Person(started).from_here("/ui/oidc/sign-in").status == 503
    openid.reset()
    started.ask_anew()
    Person(started).signed_in()


def test_a_service_starts_and_accepts_keys_while_the_provider_is_away(
    server: EmbeddedPostgres,
) -> None:
    with OpenIdProvider() as openid:
        openid.is_away = True
        with signing_in(server, "company_without_provider", openid) as company:
            guest = Person(company)
            assert guest.get("/").status == 200
            assert guest.from_here("/ui/oidc/sign-in").status == 503
            assert guest.sign_in(company.token("read")).status == 303
            openid.is_away = False
            company.ask_anew()
            Person(company).signed_in()


def test_keys_that_cannot_be_fetched_are_503(started: Company, openid: OpenIdProvider) -> None:
    openid.answers["keys"] = Answer(500)
    refused(Person(started), 503)
    openid.answers["keys"] = as_json({"keys": [jwk("short-1")]})
    started.ask_anew()
    openid.signer, openid.header = by_key("short-1"), {"kid": "short-1"}
    refused(Person(started), 400)


def test_a_provider_that_does_not_tell_its_issuer_in_answers_is_accepted(
    started: Company, openid: OpenIdProvider
) -> None:
    openid.metadata = {"authorization_response_iss_parameter_supported": False}
    openid.returned = {"iss": ...}
    Person(started).signed_in()


NAMES = [
    "Zoë Müller-Łukasiewicz 李", "<script>alert(1)</script>", '" onmouseover="alert(1)',
    "\u202eecilA", "NUL \x00 and \x1b[31m", "a\r\nset-cookie: x=y", "\U0001f600" * 60, "n" * 1000,
    "", "\ud800", 7, None, ["Alice"], {"given": "Alice"}, True,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_strange_name_or_address_breaks_no_page(
    company: Company, openid: OpenIdProvider, name: Any
) -> None:
    groups = ["\udfff", "ledger-finance"]
    verified = True if isinstance(name, str) else name
    openid.person = alice(name=name, email=name, email_verified=verified, groups=groups)
    guest = Person(company).signed_in()
    page = guest.get("/ui")
    assert page.status == 200
    assert not [tag for tag in page.all("script") if not tag.get("src")]
    assert not page.all("[onmouseover]")
    for control in ("\x00", "\x1b", "\u202e"):
        assert control not in page.answer.text


def test_a_person_of_a_hundred_groups_signs_in(company: Company, openid: OpenIdProvider) -> None:
    """A directory names a group by its id, in 36 characters."""
    groups = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(110)]
    openid.person = alice(groups=[*groups, FINANCE["value"]])
    Person(company).signed_in()


def test_a_person_of_very_many_groups_is_no_fault(company: Company, openid: OpenIdProvider) -> None:
    openid.person = alice(groups=[*(f"group-{number}" for number in range(5_000)), "x" * 100_000])
    answer = Person(company).arrive()
    assert answer.status == 400


def test_a_userinfo_of_many_bytes_is_no_answer(company: Company, openid: OpenIdProvider) -> None:
    """Else it would be read whole, and take as much memory."""
    openid.person = alice(name=...)
    openid.answers["userinfo"] = as_json(alice(padding="x" * 300_000))
    assert Person(company).arrive().status == 503


def padded(openid: OpenIdProvider, size: int) -> Callable[[Request], Answer]:
    """The provider's own answer with so many bytes."""

    def answer(request: Request) -> Answer:
        plain = openid._token(request)
        return Answer(plain.status, plain.body.ljust(size), plain.headers)

    return answer


def zipped(openid: OpenIdProvider) -> Callable[[Request], Answer]:
    """The provider's own answer with many bytes, in few."""

    def answer(request: Request) -> Answer:
        plain = openid._token(request)
        headers = {**plain.headers, "content-encoding": "gzip"}
        return Answer(plain.status, gzip.compress(plain.body.ljust(20_000_000)), headers)

    return answer


def test_an_answer_of_tokens_is_read_as_far_as_256_kib(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.answers["token"] = padded(openid, 256 * 1024)
    guest = Person(company).signed_in()
    request = [each for each in openid.requests if each.path == "/token"][-1]
    assert request.headers["accept-encoding"] == "identity"
    for answer in (padded(openid, 256 * 1024 + 1), zipped(openid)):
        openid.answers["token"] = answer
        assert Person(company).arrive().status == 503
    company.clock.advance(seconds=301)
    openid.answers["token"] = padded(openid, 300_000)
    openid.change(groups=[])
    assert guest.is_signed_in(), "no answer, as from a provider that is away"
    company.clock.advance(seconds=3600)
    assert guest.get("/ui").status == 503


def test_an_answer_of_tokens_that_never_ends_is_left_at_once(
    company: Company, openid: OpenIdProvider
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    openid.answers["token"] = Answer(body=head + b" " * 300_000, action="say")
    began = time.monotonic()
    assert Person(company).arrive().status == 503
    assert time.monotonic() - began < DEADLINE_SECONDS / 2


@pytest.mark.parametrize("error", [7, None, ["invalid_grant"], {"code": 1}, ""])
def test_an_error_that_is_no_text_is_a_refusal(
    company: Company, openid: OpenIdProvider, error: Any
) -> None:
    openid.answers["token"] = as_json({"error": error}, 400)
    assert Person(company).arrive().status == 400


def test_the_userinfo_of_another_subject_is_not_believed(
    company: Company, openid: OpenIdProvider
) -> None:
    """OpenID Connect Core 5.3.2: a ``sub`` that is not the ID token's must not be used."""
    openid.person = alice(groups=...)
    mallory = alice(sub="mallory", groups=[FINANCE["value"]])
    openid.answers["userinfo"] = as_json(mallory)
    answer = Person(company).arrive()
    assert answer.status == 400


def test_the_answer_of_the_provider_reaches_no_log(
    company: Company, openid: OpenIdProvider, caplog: pytest.LogCaptureFixture
) -> None:
    secrets: list[str] = []

    def remembered(request: Request) -> Answer:
        openid.answers.clear()
        answer = openid._serve_request(request)
        secrets.append(answer.body.decode())
        return answer

    openid.answers["token"] = remembered
    openid.bend(nonce="wrong")
    caplog.set_level("DEBUG")
    guest = Person(company)
    path = guest.visit(guest.leave())
    assert guest.from_here(path).status == 400
    # The client of these tests is httpx too, which logs each address that it requests.
    messages = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("ledger")
    )
    for member in ("id_token", "access_token", "refresh_token"):
        (secret,) = secrets
        assert secret.split(f'"{member}": "')[1].split('"')[0] not in messages
    for form in openid.forms:
        assert form["code"] not in messages
        assert form["code_verifier"] not in messages


def test_a_confidential_client_never_shows_its_secret_to_the_browser(company: Company) -> None:
    guest = Person(company)
    address = guest.leave()
    assert SECRET not in address
    assert "client_secret" not in address
    assert led_to(guest.come_back(guest.visit(address))).startswith("/ui")
    assert PUBLIC not in str(guest.session)
