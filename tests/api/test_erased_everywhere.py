"""What was erased is read by nobody, of no instant and on no worker; all else is as it was."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ledger.domain.values import format_instant
from ledger.log.vault import CannotOpen, RunKey, Vault
from tests.api.test_answers import beside
from tests.conftest import MASTER_KEY
from tests.support.canary import stored_rows, tables_with
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.hooks import URL
from tests.support.rebuilding import rebuild, replayed, rows_of, verify_all, view
from tests.support.streaming import Listener, listening
from tests.support.views import query, until
from tests.support.visitor import visitor

GONE, KEPT = "CANARY-gone", "CANARY-kept"
PAGES = ("read", "audit:read", "webhooks:manage", "runs:erase")


class Told(NamedTuple):
    """A line with two runs whose payloads hold a word each, and an instant of theirs."""

    line: str
    gone: str
    kept: str
    then: str


@pytest.fixture(scope="module")
def other(edge: Edge) -> Iterator[Edge]:
    """Another worker over the same database, whose answers hear nothing of the views."""
    with beside(edge) as other:
        yield other


def run_with(edge: Edge, other: Edge, line: str, word: str) -> str:
    """A run whose key both workers have in memory."""
    begun = {"service_line_id": line, "input": {"said": f"{word}-input"}}
    run = str(edge.accept(fact("run.requested", None, begun))[0]["subject"])
    other.accept(fact("run.started", run, {"input": f"{word}-input"}))
    edge.clock.advance(seconds=1)
    ended = {"output": [f"{word}-output"], "error": {"code": word}, "tokens_used": 7}
    edge.accept(fact("run.failed", run, ended))
    return run


def told_to(edge: Edge, other: Edge) -> Told:
    line = edge.fresh()
    gone, kept = (run_with(edge, other, line, word) for word in (GONE, KEPT))
    then = format_instant(edge.clock.now)
    edge.clock.advance(minutes=1)
    return Told(line, gone, kept, then)


def erase(edge: Edge, run: str) -> None:
    answer = edge.post(f"/v1/runs/{run}/erase", json={"reason": "asked for"})
    assert answer.status_code == 200, answer.text


def every_read(told: Told, run: str) -> list[str]:
    """Every route that tells of a line or a run, now and of then."""
    line, audit = f"/v1/execution/{told.line}", f"audit-logs?organization_id={ORGANIZATION}"
    past = [f"/v1/runs/{run}", f"{line}/runs", line, f"{line}/history", f"{line}/timeline"]
    past += [f"{line}/usage", "/v1/execution", "/v1/execution/summary"]
    return [
        *past,
        *(f"{path}?as_of={told.then}" for path in past),
        f"/v1/events?service_line_id={told.line}&limit=100",
        f"/v1/{audit}&limit=100",
        f"/v1/{audit.replace('?', '/export?')}",
        f"/v1/{audit.replace('?', '/export?format=csv&')}",
        "/v1/webhooks",
    ]


def every_page(told: Told, run: str) -> list[str]:
    line = f"/ui/lines/{told.line}"
    past = [f"/ui/runs/{run}", line, f"{line}/runs", "/ui"]
    return [*past, *(f"{path}?as_of={told.then}" for path in past), "/ui/events", "/ui/audit"]


def shown(edge: Edge, told: Told, run: str, pages: bool) -> str:
    """All that anybody can read of a run by the API's routes, or by these and by pages."""
    answers = [edge.get(path) for path in every_read(told, run)]
    if pages:
        guest = visitor(edge, *PAGES)
        answers += [guest.get(path).answer for path in every_page(told, run)]
    assert [(str(a.url), a.status_code) for a in answers if a.status_code != 200] == []
    return "".join(answer.text for answer in answers)


def test_nobody_reads_it_any_more_on_any_worker(edge: Edge, other: Edge) -> None:
    edge.post("/v1/webhooks", json={"url": URL, "event_types": ["*"]})
    told = told_to(edge, other)
    for worker in (edge, other):
        # From here on their answers are kept.
        assert GONE in shown(worker, told, told.gone, pages=worker is edge)
        assert GONE in worker.get(f"/v1/runs/{told.gone}").text
    tag = {"if-none-match": edge.get(f"/v1/runs/{told.gone}").headers["etag"]}
    erase(edge, told.gone)
    for worker in (other, edge):
        assert GONE not in shown(worker, told, told.gone, pages=worker is edge)
        assert f"{KEPT}-output" in worker.get(f"/v1/runs/{told.kept}").text
        assert worker.get(f"/v1/runs/{told.gone}", headers=tag).status_code == 200
    stored = stored_rows(edge.conninfo)
    assert any(told.gone.encode() in row for row in stored["ledger.run_version_g1"])
    assert tables_with(stored, GONE) == tables_with(stored, KEPT) == []


def test_a_stream_from_the_beginning_tells_nothing_of_it(edge: Edge, other: Edge) -> None:
    told = told_to(edge, other)
    erase(edge, told.gone)
    (last,) = edge.data(f"/v1/events?service_line_id={told.line}&type=run.erased")
    with listening(edge) as address:
        token = edge.token("read")
        query = f"service_line_id={told.line}&after=EVT-26-000001"
        with Listener(address, token, query) as listener:
            events = listener.opened().until(last["id"])
    assert [event["type"] for event in events][-2:] == ["run.failed", "run.erased"]
    assert "CANARY" not in repr(events)


def test_no_key_that_is_left_opens_what_is_stored(edge: Edge, other: Edge) -> None:
    told = told_to(edge, other)
    erase(edge, told.gone)
    vault = Vault(bytes.fromhex(MASTER_KEY))
    rows = query(edge.conninfo, "SELECT run_id, organization_id, wrapped FROM ledger.run_key")
    wrapped = {run: vault.unwrap(key, owner, run) for run, owner, key in rows if key is not None}
    assert (told.gone in wrapped, told.kept in wrapped) == (False, True)
    statement = "SELECT input, output, error FROM ledger.run_version WHERE run_id = %s"

    def opened(run: str, key: RunKey) -> list[bytes]:
        found = []
        for row in query(edge.conninfo, statement, run):
            for field, sealed in zip(("input", "output", "error"), row, strict=True):
                if sealed is not None:
                    found.append(key.open(field, sealed))
        return found

    assert len(opened(told.kept, wrapped[told.kept])) == 4
    for key in wrapped.values():
        with pytest.raises(CannotOpen):
            opened(told.gone, key)


def test_a_key_that_comes_back_opens_nothing_more(edge: Edge, other: Edge) -> None:
    """As of a backup that somebody put back: the log still says that the run is erased."""
    told = told_to(edge, other)
    key = "FROM ledger.run_key WHERE run_id = %s"
    ((wrapped,),) = query(edge.conninfo, f"SELECT wrapped {key}", told.gone)
    erase(edge, told.gone)
    back = "UPDATE ledger.run_key SET wrapped = %s, destroyed_at = NULL WHERE run_id = %s"
    query(edge.conninfo, back, wrapped, told.gone)
    for worker in (edge, other):
        for path in (f"/v1/runs/{told.gone}", f"/v1/execution/{told.line}/runs"):
            for way in ("", f"?as_of={told.then}"):
                assert GONE not in worker.get(path + way).text


DEAFEN = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'ledger api listener' AND datname = current_database()
"""


def keys_of(worker: Edge) -> dict[str, RunKey | None]:
    """What a worker's writer has in memory."""
    keys: dict[str, RunKey | None] = worker.service.app.state.services.writer._cache.run_keys
    return keys


def test_its_key_leaves_every_workers_memory(edge: Edge, other: Edge) -> None:
    told = told_to(edge, other)
    for worker in (edge, other):
        assert None not in (keys_of(worker)[told.gone], keys_of(worker)[told.kept])
    erase(edge, told.gone)
    assert keys_of(edge).get(told.gone) is None
    # The other worker has heard of it when it has heard of the view that shows it.
    until(lambda: keys_of(other).get(told.gone) is None, "the other to forget the key")
    for worker in (edge, other):
        assert keys_of(worker)[told.kept] is not None


def test_a_worker_that_heard_nothing_for_a_while_forgets_every_key(edge: Edge, other: Edge) -> None:
    """What was erased meanwhile it cannot know. The next fact looks the keys up again."""
    told = told_to(edge, other)
    query(edge.conninfo, DEAFEN)
    until(lambda: not keys_of(other), "the other to forget its keys")
    run = run_with(edge, other, told.line, KEPT)
    assert other.data(f"/v1/runs/{run}")["output"] == [f"{KEPT}-output"]


def test_of_every_instant_the_payload_is_null_and_the_rest_as_it_was(
    edge: Edge, other: Edge
) -> None:
    told = told_to(edge, other)
    path, listed = f"/v1/runs/{told.gone}", f"/v1/execution/{told.line}/runs"
    started = edge.data(f"{path}?as_of={told.then}")
    beside = edge.data(f"{listed}?as_of={told.then}")[0]
    erase(edge, told.gone)
    now = edge.data(path)
    edge.clock.advance(minutes=1)
    gone = {"input": None, "output": None, "error": None, "erased_at": now["erased_at"]}
    for worker in (edge, other):
        assert worker.data(f"{path}?as_of={told.then}") == started | gone
        assert worker.data(f"{listed}?as_of={told.then}") == [beside, started | gone]
        assert worker.data(f"{path}?as_of={format_instant(edge.clock.now)}") == now
    assert beside["output"] == [f"{KEPT}-output"]


def counted(edge: Edge, line: str) -> list[Any]:
    """All that is counted or told of a line's state."""
    ways = ("", "/timeline", "/usage")
    paths = [f"/v1/execution/{line}{way}" for way in ways] + ["/v1/execution/summary"]
    activity = f"SELECT * FROM ledger.line_activity WHERE line_id = '{line}'"
    far = {"ledger-min-position": str(edge.log()[0][0])}
    return [*(edge.data(path, headers=far) for path in paths), edge.select(activity)]


def test_no_count_metric_or_token_changes_and_an_idle_line_stays_idle(
    edge: Edge, other: Edge
) -> None:
    told = told_to(edge, other)
    edge.clock.advance(hours=1)
    edge.run(edge.service.sweep())
    before = counted(edge, told.line)
    assert before[0]["state"] == "idle"
    erase(edge, told.gone)
    assert counted(edge, told.line) == before


def test_the_views_say_what_the_log_says_built_anew_or_not(edge: Edge, other: Edge) -> None:
    told = told_to(edge, other)
    erase(edge, told.gone)
    before = rows_of(edge.conninfo)
    assert before == replayed(edge.conninfo)
    assert verify_all(edge.conninfo) == []
    answers = [edge.get(path).content for path in every_read(told, told.gone)]
    for name in ("run", "event", "execution", "webhook"):
        rebuild(edge.conninfo, view(name))
    assert rows_of(edge.conninfo) == before
    assert [edge.get(path).content for path in every_read(told, told.gone)] == answers
