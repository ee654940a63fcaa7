"""Signing in with a token of the identity provider instead of an API key."""

from collections.abc import Iterator

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.sign_in.access.json_web_tokens import LONGEST
from ledger.features.sign_in.page.session import COOKIE
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION
from tests.support.provider import Provider, trusting
from tests.support.receiver import Answer
from tests.support.visitor import Visitor


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_sign_in_by_token", provider) as edge:
        yield edge


def test_signing_in_leads_to_the_board_which_names_the_user(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", sub="<b>alice</b>")
    guest = Visitor(edge, token)
    board = guest.get("/ui")
    assert board.status == 200
    assert f"Signed in with user:<b>alice</b> · {ORGANIZATION}" in board.text
    assert token not in guest.http.cookies[COOKIE]


def test_a_session_ends_with_its_token(edge: Edge, provider: Provider) -> None:
    now = int(edge.clock().timestamp())
    guest = Visitor(edge, provider.token("ed-1", exp=now + 600))
    assert guest.get("/ui").status == 200
    edge.clock.advance(seconds=640)
    answer = guest.get("/ui")
    assert answer.status == 401
    message = "Your token has expired. Sign in with a new token."
    assert answer.words('[role="alert"]') == [message]


def test_a_token_that_is_not_accepted_is_refused_in_words(edge: Edge, provider: Provider) -> None:
    guest = Visitor(edge)
    answer = guest.sign_in(provider.token("ed-1", aud="billing"), next="/ui?state=blocked")
    assert answer.status == 401
    message = "This token has expired, or this service does not accept it. Paste the whole token."
    assert answer.words('[role="alert"]') == [message]
    assert answer.form("/ui/sign-in")["next"] == "/ui?state=blocked"
    assert COOKIE not in guest.http.cookies


def test_a_token_may_be_as_long_as_the_api_accepts_it(edge: Edge, provider: Provider) -> None:
    bare = len(provider.token("ed-1", more=""))
    long = provider.token("ed-1", more="x" * ((LONGEST - bare) * 3 // 4 - 2))
    assert LONGEST - 5 < len(long) <= LONGEST
    answer = Visitor(edge).sign_in(long)
    assert answer.status == 303
    assert len(answer.answer.headers["set-cookie"]) < 200


def test_while_the_providers_keys_cannot_be_fetched_the_page_says_so(
    server: EmbeddedPostgres,
) -> None:
    with Provider("ed-1") as provider:
        provider.fail(Answer(500))
        with trusting(server, "edge_page_without_provider", provider) as edge:
            answer = Visitor(edge).sign_in(provider.token("ed-1"))
            assert answer.status == 503
            assert "cannot be fetched" in answer.text
