"""No worker shows an erased payload, as of any instant; everything else is as it was."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ledger.engine.log.vault import CannotOpen, RunKey, Vault
from ledger.engine.values.values import format_instant
from tests.engine.http.test_answers import second_worker
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.memory import count_keys_of
from tests.support.plaintext import sealed_payloads, stored_rows, tables_with
from tests.support.rebuilding import rebuild, rows_from_log, rows_of, verify_all, view
from tests.support.stored import stored_object
from tests.support.streaming import Listener, listening
from tests.support.views import query, until
from tests.support.visitor import visitor
from tests.support.webhook_api import URL

GONE, STORED = "CANARY-gone", "CANARY-kept"
PAGES = ("read", "audit:read", "webhooks:manage", "runs:erase")


class Case(NamedTuple):
    """A line with two runs, whose payloads hold GONE or STORED, and an instant after their end."""

    line: str
    gone: str
    stored: str
    then: str


@pytest.fixture(scope="module")
def other(edge: Edge) -> Iterator[Edge]:
    """A second worker on the same database, whose cache gets no notifications of the views."""
    with second_worker(edge) as other:
        yield other


def run_with(edge: Edge, other: Edge, line: str, word: str) -> str:
    """An ended run with a word in its payloads, whose key both workers have in memory."""
    begun = {"service_line_id": line, "input": {"said": f"{word}-input"}}
    run = str(edge.accept(fact("run.requested", None, begun))[0]["subject"])
    other.accept(fact("run.started", run, {"input": f"{word}-input"}))
    edge.clock.advance(seconds=1)
    ended = {"output": [f"{word}-output"], "error": {"code": word}, "tokens_used": 7}
    edge.accept(fact("run.failed", run, ended))
    return run


def new_case(edge: Edge, other: Edge) -> Case:
    line = edge.fresh()
    gone, stored = (run_with(edge, other, line, word) for word in (GONE, STORED))
    then = format_instant(edge.clock.now)
    edge.clock.advance(minutes=1)
    return Case(line, gone, stored, then)


def erase(edge: Edge, run: str) -> None:
    answer = edge.post(f"/v1/runs/{run}/erase", json={"reason": "asked for"})
    assert answer.status_code == 200, answer.text


def every_read(case: Case, run: str) -> list[str]:
    """The path of every read that shows a line or a run, now and as of the case's instant."""
    line, audit = f"/v1/execution/{case.line}", f"audit-logs?organization_id={ORGANIZATION}"
    past = [f"/v1/runs/{run}", f"{line}/runs", line, f"{line}/history", f"{line}/timeline"]
    past += [f"{line}/usage", "/v1/execution", "/v1/execution/summary"]
    return [
        *past,
        *(f"{path}?as_of={case.then}" for path in past),
        f"/v1/events?service_line_id={case.line}&limit=100",
        f"/v1/{audit}&limit=100",
        f"/v1/{audit.replace('?', '/export?')}",
        f"/v1/{audit.replace('?', '/export?format=csv&')}",
        "/v1/webhooks",
    ]


def every_page(case: Case, run: str) -> list[str]:
    line = f"/ui/lines/{case.line}"
    past = [f"/ui/runs/{run}", line, f"{line}/runs", "/ui"]
    return [*past, *(f"{path}?as_of={case.then}" for path in past), "/ui/events", "/ui/audit"]


def texts_of(edge: Edge, case: Case, run: str, pages: bool) -> str:
    """The texts of all answers of the API about a run, and of the web pages if ``pages``."""
    answers = [edge.get(path) for path in every_read(case, run)]
    if pages:
        guest = visitor(edge, *PAGES)
        answers += [guest.get(path).answer for path in every_page(case, run)]
    assert [(str(a.url), a.status_code) for a in answers if a.status_code != 200] == []
    return "".join(answer.text for answer in answers)


def test_no_worker_shows_an_erased_payload_on_any_route_or_page(edge: Edge, other: Edge) -> None:
    edge.post("/v1/webhooks", json={"url": URL, "event_types": ["*"]})
    case = new_case(edge, other)
    for worker in (edge, other):
        # From here on the workers keep these answers.
        assert GONE in texts_of(worker, case, case.gone, pages=worker is edge)
        assert GONE in worker.get(f"/v1/runs/{case.gone}").text
    tag = {"if-none-match": edge.get(f"/v1/runs/{case.gone}").headers["etag"]}
    erase(edge, case.gone)
    for worker in (other, edge):
        assert GONE not in texts_of(worker, case, case.gone, pages=worker is edge)
        assert f"{STORED}-output" in worker.get(f"/v1/runs/{case.stored}").text
        assert worker.get(f"/v1/runs/{case.gone}", headers=tag).status_code == 200
    stored = stored_rows(edge.conninfo)
    assert any(case.gone.encode() in row for row in stored["ledger.run_g1"])
    assert tables_with(stored, GONE) == tables_with(stored, STORED) == []


def test_a_stream_from_the_beginning_shows_no_erased_payload(edge: Edge, other: Edge) -> None:
    case = new_case(edge, other)
    erase(edge, case.gone)
    (last,) = edge.data(f"/v1/events?service_line_id={case.line}&type=run.erased")
    with listening(edge) as address:
        token = edge.token("read")
        query = f"service_line_id={case.line}&after=EVT-26-000001"
        with Listener(address, token, query) as listener:
            events = listener.opened().until(last["id"])
    assert [event["type"] for event in events][-2:] == ["run.failed", "run.erased"]
    assert "CANARY" not in repr(events)


def test_no_remaining_key_opens_the_stored_ciphertext(edge: Edge, other: Edge) -> None:
    case = new_case(edge, other)
    erase(edge, case.gone)
    vault = Vault(bytes.fromhex(MASTER_KEY))
    rows = query(edge.conninfo, "SELECT run_id, organization_id, wrapped FROM ledger.run_key")
    wrapped = {run: vault.unwrap(key, owner, run) for run, owner, key in rows if key is not None}
    assert (case.gone in wrapped, case.stored in wrapped) == (False, True)

    def opened(run: str, key: RunKey) -> list[bytes]:
        return [key.open(field, sealed) for field, sealed in sealed_payloads(edge.conninfo, run)]

    assert len(opened(case.stored, wrapped[case.stored])) == 4
    for key in wrapped.values():
        with pytest.raises(CannotOpen):
            opened(case.gone, key)


def test_a_restored_key_opens_no_erased_payload(edge: Edge, other: Edge) -> None:
    """Somebody put the key back from a backup: the log still says that the run is erased."""
    case = new_case(edge, other)
    key = "FROM ledger.run_key WHERE run_id = %s"
    ((wrapped,),) = query(edge.conninfo, f"SELECT wrapped {key}", case.gone)
    erase(edge, case.gone)
    back = "UPDATE ledger.run_key SET wrapped = %s, destroyed_at = NULL WHERE run_id = %s"
    query(edge.conninfo, back, wrapped, case.gone)
    for worker in (edge, other):
        for path in (f"/v1/runs/{case.gone}", f"/v1/execution/{case.line}/runs"):
            for way in ("", f"?as_of={case.then}"):
                answer = worker.get(path + way)
                assert (answer.status_code, GONE in answer.text) == (200, False)


END_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'ledger api listener' AND datname = current_database()
"""


def keys_of(edge: Edge, run: str) -> int:
    """How many keys of a run both workers together have in memory."""
    statement = """SELECT convert_from(state, 'UTF8') FROM ledger.ledger_events
        WHERE originator_id = %s AND originator_version = 1"""
    ((first,),) = query(edge.conninfo, statement, run)
    return count_keys_of(stored_object(first))


def test_the_key_of_an_erased_run_leaves_the_memory_of_every_worker(
    edge: Edge, other: Edge
) -> None:
    case = new_case(edge, other)
    assert (keys_of(edge, case.gone), keys_of(edge, case.stored)) == (2, 2)
    erase(edge, case.gone)
    assert keys_of(edge, case.gone) <= 1
    # The other worker learns of the erasure when a view has folded it.
    until(lambda: keys_of(edge, case.gone) == 0, "the other to forget the key")
    assert keys_of(edge, case.stored) == 2


def test_a_worker_that_was_not_listening_for_a_while_forgets_every_key(
    edge: Edge, other: Edge
) -> None:
    """The worker cannot know which runs were erased meanwhile. The next fact reads its key anew."""
    case = new_case(edge, other)
    query(edge.conninfo, END_LISTENERS)
    for run in (case.gone, case.stored):
        until(lambda run=run: keys_of(edge, run) == 0, "both to forget their keys")
    run = run_with(edge, other, case.line, STORED)
    assert other.data(f"/v1/runs/{run}")["output"] == [f"{STORED}-output"]


def test_as_of_every_instant_the_payload_is_null_and_the_rest_as_it_was(
    edge: Edge, other: Edge
) -> None:
    case = new_case(edge, other)
    path, listed = f"/v1/runs/{case.gone}", f"/v1/execution/{case.line}/runs"
    started = edge.data(f"{path}?as_of={case.then}")
    listed_run = edge.data(f"{listed}?as_of={case.then}")[0]
    erase(edge, case.gone)
    now = edge.data(path)
    edge.clock.advance(minutes=1)
    gone = {"input": None, "output": None, "error": None, "erased_at": now["erased_at"]}
    for worker in (edge, other):
        assert worker.data(f"{path}?as_of={case.then}") == started | gone
        assert worker.data(f"{listed}?as_of={case.then}") == [listed_run, started | gone]
        assert worker.data(f"{path}?as_of={format_instant(edge.clock.now)}") == now
    assert listed_run["output"] == [f"{STORED}-output"]


def counted(edge: Edge, line: str) -> list[Any]:
    """Everything that the service counts or shows of a line's state."""
    ways = ("", "/timeline", "/usage")
    paths = [f"/v1/execution/{line}{way}" for way in ways] + ["/v1/execution/summary"]
    activity = f"SELECT * FROM ledger.line_activity WHERE line_id = '{line}'"
    far = {"ledger-min-position": str(edge.log()[0][0])}
    return [*(edge.data(path, headers=far) for path in paths), edge.select(activity)]


def test_an_erasure_changes_no_count_metric_or_token_and_an_idle_line_stays_idle(
    edge: Edge, other: Edge
) -> None:
    case = new_case(edge, other)
    edge.clock.advance(hours=1)
    edge.run(edge.service.sweep())
    before = counted(edge, case.line)
    assert before[0]["state"] == "idle"
    erase(edge, case.gone)
    assert counted(edge, case.line) == before


def test_views_equal_the_log_after_an_erasure_before_and_after_a_rebuild(
    edge: Edge, other: Edge
) -> None:
    case = new_case(edge, other)
    erase(edge, case.gone)
    before = rows_of(edge.conninfo)
    assert before == rows_from_log(edge.conninfo)
    assert verify_all(edge.conninfo) == []
    answers = [edge.get(path).content for path in every_read(case, case.gone)]
    for name in ("run", "event", "execution", "webhook"):
        rebuild(edge.conninfo, view(name))
    assert rows_of(edge.conninfo) == before
    assert [edge.get(path).content for path in every_read(case, case.gone)] == answers
