"""A repeated request about many lines continues where it stopped (contract, Reading)."""

import itertools
from datetime import timedelta

import httpx
import psycopg
import pytest

from ledger.features.lines.routes import holds as routes
from tests.engine.http.test_idempotency_key import end
from tests.lines.test_many_lines import holds, items, many
from tests.support.audits import Tenant
from tests.support.edge import assert_problem
from tests.support.facts import fact

keys = itertools.count(1)


def replayed(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def test_a_request_that_is_sent_again_is_answered_for_the_first_ones_lines(tenant: Tenant) -> None:
    key, line, held = f"many-{next(keys)}", tenant.line(name="First"), tenant.line()
    tenant.pause(held)
    arguments = {"filter": {"state": ["running", "paused"]}, "key": key}
    first = many(tenant, **arguments)
    many(tenant, "resume", lines=[line, held])
    tenant.line()
    tenant.edge.accept(
        fact("service_line.updated", line, {"project_tags": [], "name": "Later"}),
        token=tenant.token,
    )
    before = end(tenant.edge)
    again = many(tenant, **arguments)
    assert again.content == first.content
    assert again.headers["ledger-position"] == first.headers["ledger-position"]
    assert (replayed(first), replayed(again)) == (False, True)
    assert end(tenant.edge) == before
    other = many(tenant, **arguments, expect=2)
    assert_problem(other, 422, "idempotency_key_reused")
    assert tenant.log()[-1]["resource"] is None


_FAILS_AT = """
CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN RAISE EXCEPTION ''no''; END';
CREATE TRIGGER fails BEFORE INSERT ON ledger.ledger_events FOR EACH ROW
    WHEN (NEW.originator_id = '{line}') EXECUTE FUNCTION public.fail()
"""


def test_a_request_that_failed_at_a_line_goes_on_when_it_is_sent_again(tenant: Tenant) -> None:
    key, lines = f"many-{next(keys)}", [tenant.line() for _ in range(3)]
    before = end(tenant.edge)
    with psycopg.connect(tenant.edge.conninfo, autocommit=True) as connection:
        connection.execute(_FAILS_AT.format(line=lines[1]).encode())
        assert_problem(many(tenant, lines=lines, key=key), 503, "unavailable")
        connection.execute(b"DROP FUNCTION public.fail() CASCADE")
    recorded = "SELECT originator_id FROM ledger.ledger_events WHERE notification_id > "
    assert tenant.edge.select(f"{recorded}{before}") == [(lines[2],), (lines[0],)]
    again = many(tenant, lines=lines, key=key)
    assert items(again) == [(line, "paused", "paused") for line in reversed(lines)]
    assert not replayed(again)
    assert replayed(many(tenant, lines=lines, key=key))


def test_a_request_that_takes_too_long_is_a_503_and_answered_when_it_is_sent_again(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, line = f"many-{next(keys)}", tenant.line()
    with (
        tenant.edge.views_left_to_the_projector(),
        psycopg.connect(tenant.edge.conninfo) as connection,
        monkeypatch.context() as patch,
    ):
        patch.setattr(routes, "ANSWER_SECONDS", 0.5)
        # The lock stops the projector: the answer waits for the views.
        connection.execute("LOCK TABLE ledger.projection IN EXCLUSIVE MODE")
        assert_problem(many(tenant, lines=[line], key=key), 503, "unavailable")
    again = many(tenant, lines=[line], key=key)
    assert (items(again), replayed(again)) == ([(line, "paused", "paused")], True)


def test_a_409_is_replayed(tenant: Tenant) -> None:
    key, line = f"many-{next(keys)}", tenant.line()
    arguments = {"lines": [line], "expect": 0, "key": key}
    first, again = many(tenant, **arguments), many(tenant, **arguments)
    assert_problem(again, 409, "invalid_state")
    assert (replayed(first), replayed(again)) == (False, True)


def test_the_stored_lines_are_encrypted(tenant: Tenant) -> None:
    key, line = f"many-{next(keys)}", tenant.line(name="Zebra")
    many(tenant, lines=[line], key=key)
    stored = tenant.edge.select(f"SELECT outcome FROM ledger.idempotency WHERE key = '{key}'")
    assert len(stored) == 2
    assert not any(word in outcome for (outcome,) in stored for word in (line.encode(), b"Zebra"))


def break_off(tenant: Tenant, key: str) -> None:
    """Leave a request for one line as a crash would have: the line is kept, and not done."""
    own = "DELETE FROM ledger.idempotency WHERE key = %s AND path LIKE '%%LIN%%'"
    with psycopg.connect(tenant.edge.conninfo, autocommit=True) as connection:
        assert connection.execute(own, (key,)).rowcount == 1


def test_a_line_that_is_left_after_the_end_of_its_pause_is_refused(tenant: Tenant) -> None:
    key, line = f"many-{next(keys)}", tenant.line()
    until = tenant.edge.clock() + timedelta(hours=1)
    arguments = {"lines": [line], "until": until.isoformat(), "key": key}
    many(tenant, **arguments)
    break_off(tenant, key)
    many(tenant, "resume", lines=[line])
    tenant.edge.clock.advance(hours=1)
    late = many(tenant, **arguments)
    assert items(late) == [(line, "refused", "running")]
    assert late.json()["data"][0]["code"] == "invalid_request"


def test_after_24_hours_the_lines_are_judged_anew_also_those_that_were_done_later(
    tenant: Tenant,
) -> None:
    edge, key = tenant.edge, f"many-{next(keys)}"
    line = tenant.line()
    arguments = {"lines": [line], "key": key}
    many(tenant, **arguments)
    break_off(tenant, key)
    many(tenant, "resume", lines=[line])
    edge.clock.advance(hours=23)
    late = many(tenant, **arguments)
    assert (items(late), replayed(late)) == ([(line, "paused", "paused")], False)
    many(tenant, "resume", lines=[line])
    edge.clock.advance(hours=2)
    anew = many(tenant, **arguments)
    assert (items(anew), replayed(anew)) == ([(line, "paused", "paused")], False)
    assert holds(tenant, line) == ["operator"]
