"""The audit log as a file: the entries of the list, complete or visibly cut (contract, Feeds)."""

import http.client
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.rendering import json_text
from ledger.features.keys.commands import RevokeApiKey
from ledger.features.lines.model.execution_events import CheckedIn
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import ORGANIZATION, WORKSPACE, activation, encode, fact
from tests.support.feeds import AWKWARD, BEHIND, FORMULAS, cell_of, pages_of, rows_of
from tests.support.random_life import Life
from tests.support.service import STRUCTURED
from tests.support.soak import repeated
from tests.support.stored import DROP_CHECK
from tests.support.streaming import Address, listening, narrow
from tests.support.views import query
from tests.whole.golden.samples import envelope

EXPORT, LIST = "/v1/audit-logs/export", "/v1/audit-logs"
EVENTS = "/v1/events/export"
COLUMNS = [
    "id", "action", "actor_type", "actor_id", "reported_by", "resource_type", "resource_id",
    "outcome", "code", "occurred_at", "recorded_at", "request_id", "position", "resource_count",
    "resource_reason", "fact_source", "fact_id", "reason", "reported_by_name", "errors",
]  # fmt: skip
OTHERS = {"organization_id": "ORG-26-000002", "workspace_id": "WS-26-000002"}

MANY = 20_000
STORED = EnvelopeMapper().to_stored_event(envelope(CheckedIn(hours=1)))
# A check-in at each of some positions, in the log and in the view of events.
_FILL = """
WITH filled AS (
    INSERT INTO ledger.ledger_events (notification_id, originator_id, originator_version, topic,
        state, recorded_at)
    SELECT n, %s, n, %s, %s, '2026-04-15 12:00Z'::timestamptz + n * interval '1 ms'
    FROM generate_series(%s::bigint, %s) AS n
    RETURNING notification_id
)
INSERT INTO ledger.event_g1 (position, organization_id, type, audit, actor_type, actor_id)
SELECT notification_id, %s, 'execution.checked_in', 'fact', 'agent', 'AGT-1' FROM filled
"""
_HEAD = "SELECT max(notification_id) FROM ledger.ledger_events"
_NEXT = "SELECT setval(pg_get_serial_sequence('ledger.ledger_events', 'notification_id'), %s)"
_MOVE = "UPDATE ledger.projection SET position = %s"
_KILL = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger api'
"""


@pytest.fixture(scope="module")
def auditor(edge: Edge) -> str:
    """A key for an audit log with many actions and refusals; other tenants have entries too."""
    Life(edge, 5).live(20)
    admin = edge.token("admin", organization_id=None)
    edge.fresh(token=admin, **OTHERS)
    edge.fresh(workspace_id="WS-26-000003")
    line = edge.fresh()
    for number, word in enumerate([*FORMULAS, *AWKWARD, *BEHIND]):
        named = {"actortype": "user", "actorid": word, "source": f"={number}"}
        edge.accept(fact("execution.checked_in", line, {"hours": 1}, **named))
    headers = STRUCTURED | {"x-request-id": "=cmd/1"}
    edge.post("/v1/facts", content=encode(activation(line)), headers=headers)
    edge.send(fact("execution.checked_in", line, {"hours": "=1", "extra": 1}))
    edge.token("read")
    return edge.token("audit:read")


def listed(edge: Edge, token: str, **params: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The texts of the list's pages, and the entries of all pages."""
    params = {"organization_id": ORGANIZATION} | params
    params |= {"from" if name == "from_" else name: value for name, value in params.items()}
    return pages_of(edge, LIST, token, params, _activity(edge))


def exported(edge: Edge, token: str, **params: Any) -> bytes:
    params = {"organization_id": ORGANIZATION} | params
    answer = edge.get(EXPORT, token, params=params, headers=_activity(edge))
    assert answer.status_code == 200, answer.text
    return answer.content


def _activity(edge: Edge) -> dict[str, str]:
    """A header that waits for the whole log: the making of a key does not wait for the views."""
    return {"ledger-min-position": str(edge.select(_HEAD)[0][0])}


# Content.


def test_each_line_of_an_export_is_an_entry_of_the_list_byte_for_byte(
    edge: Edge, auditor: str
) -> None:
    texts, entries = listed(edge, auditor)
    content = exported(edge, auditor)
    assert len(entries) > 100
    assert content.decode() == ",".join(texts).replace('},{"id"', '}\n{"id"') + "\n"
    assert [json.loads(line) for line in content.splitlines()] == entries


@pytest.mark.parametrize(
    "params",
    [
        {"workspace_id": WORKSPACE},
        {"workspace_id": "WS-26-000003"},
        {"outcome": "refused"},
        {"outcome": "succeeded"},
        {"action": "execution.checked_in,run.started"},
        {"action": "key.create", "outcome": "succeeded"},
        {"actor_type": "user"},
        {"actor_id": "=1+1"},
        {"from": "2026-04-15T13:00:00Z"},
        {"to": "2026-04-15T13:00:00Z", "action": "execution.checked_in"},
        {"organization_id": OTHERS["organization_id"]},
    ],
)
def test_every_filter_finds_the_same_entries_as_in_the_list(
    edge: Edge, auditor: str, params: dict[str, str]
) -> None:
    _, entries = listed(edge, auditor, **params)
    lines = exported(edge, auditor, **params).splitlines()
    assert [json.loads(line) for line in lines] == entries
    table = rows_of(exported(edge, auditor, format="csv", **params))
    assert table[0] == COLUMNS
    assert [row[0] for row in table[1:]] == [entry["id"] for entry in entries]
    assert (entries == []) == ("organization_id" in params)


def test_the_csv_table_has_every_field_of_every_entry(edge: Edge, auditor: str) -> None:
    _, entries = listed(edge, auditor)
    content = exported(edge, auditor, format="csv")
    assert content.count(b"\r\n") >= len(entries) + 1
    assert [{"pointer": "/data/hours"}, {"pointer": "/data/extra"}] in [
        entry["errors"] for entry in entries
    ]
    for entry, row in zip(entries, rows_of(content)[1:], strict=True):
        resource, reported = entry["resource"] or {}, entry["fact"] or {}
        values = [
            entry["id"], entry["action"], entry["actor"]["type"], entry["actor"]["id"],
            entry["reported_by"], resource.get("type"), resource.get("id"), entry["outcome"],
            entry["code"], entry["occurred_at"], entry["recorded_at"], entry["request_id"],
            entry["position"], resource.get("count"), resource.get("reason"),
            reported.get("source"), reported.get("id"), entry["reason"], entry["reported_by_name"],
            None if entry["errors"] is None else json_text(entry["errors"]),
        ]  # fmt: skip
        words = ["" if value is None else str(value) for value in values]
        assert row == list(map(cell_of, words))


def test_no_csv_cell_is_a_formula(edge: Edge, auditor: str) -> None:
    table = rows_of(exported(edge, auditor, format="csv"))
    cells = [cell for row in table for cell in row]
    assert not [cell for cell in cells if cell and cell[0] in "=+-@＝＋－＠\t\r"]
    actors = [row[COLUMNS.index("actor_id")] for row in table]
    assert set(map(cell_of, [*FORMULAS, *AWKWARD, *BEHIND])) <= set(actors)
    assert "'=cmd/1" in [row[COLUMNS.index("request_id")] for row in table]


def test_an_export_declares_its_content_type_file_name_and_position(
    edge: Edge, auditor: str
) -> None:
    for format_, content_type in (
        ("jsonl", "application/x-ndjson"),
        ("csv", "text/csv; charset=utf-8"),
    ):
        answer = edge.get(f"{EXPORT}?organization_id={ORGANIZATION}&format={format_}", auditor)
        assert answer.headers["content-type"] == content_type
        disposition = f'attachment; filename="audit-log.{format_}"'
        assert answer.headers["content-disposition"] == disposition
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["ledger-position"] == _activity(edge)["ledger-min-position"]


# Resuming.


@pytest.mark.parametrize("format_", ["jsonl", "csv"])
def test_an_export_after_any_entry_is_the_rest_of_the_whole_export(
    edge: Edge, auditor: str, format_: str
) -> None:
    params = {"format": format_, "actor_type": "user"}
    _, entries = listed(edge, auditor, actor_type="user")
    assert len(entries) > 5
    whole = exported(edge, auditor, **params)
    offset = whole.index(b"\r\n") + 2 if format_ == "csv" else 0
    for entry in entries:
        rest = exported(edge, auditor, after=entry["id"], **params)
        assert whole.endswith(rest)
        row = whole[offset : len(whole) - len(rest)]
        assert row.startswith(entry["id"].encode() if format_ == "csv" else b'{"id":"')
        assert entry["id"].encode() in row
        offset += len(row)
    assert offset == len(whole)


def test_a_cursor_of_the_list_resumes_as_an_export(edge: Edge, auditor: str) -> None:
    params = {"organization_id": ORGANIZATION, "limit": 7, "outcome": "succeeded"}
    page = edge.get(LIST, auditor, params=params).json()
    cursor = {"outcome": "succeeded", "cursor": page["meta"]["cursor"]}
    whole = exported(edge, auditor, outcome="succeeded").splitlines(keepends=True)
    assert exported(edge, auditor, **cursor) == b"".join(whole[7:])
    cursor["outcome"] = "refused"
    answer = edge.get(EXPORT, auditor, params={"organization_id": ORGANIZATION} | cursor)
    assert_problem(answer, 400, "invalid_cursor")


# Refusals.


@pytest.mark.parametrize(
    "params",
    [
        "",
        f"organization_id={ORGANIZATION}&format=xml",
        f"organization_id={ORGANIZATION}&limit=5",
        f"organization_id={ORGANIZATION}&after=EVT-26-000001",
        f"organization_id={ORGANIZATION}&after=",
        f"organization_id={ORGANIZATION}&outcome=maybe",
        f"organization_id={ORGANIZATION}&from=2026-02-01&to=2026-01-01",
    ],
)
def test_a_wrong_parameter_is_a_422(edge: Edge, auditor: str, params: str) -> None:
    assert_problem(edge.get(f"{EXPORT}?{params}", auditor), 422, "invalid_request")


# Large exports, on a real port.


@pytest.fixture(scope="module")
def large(server: Any, databases: Any) -> Iterator[tuple[Edge, Address, str]]:
    """A service whose audit log has more entries than a process should hold in memory."""
    conninfo = server.url.replace("/ledger?", f"/{databases.take()}?")
    settings = Settings(master_key="0f" * 32, idle_sweep_seconds=3600)
    stored = STORED.originator_id, STORED.topic, STORED.state
    query(conninfo, DROP_CHECK.decode())
    query(conninfo, _FILL, *stored, 100_000, 99_999 + MANY, ORGANIZATION)
    query(conninfo, _MOVE, 99_999 + MANY)
    query(conninfo, _NEXT, 99_999 + MANY)
    with edge_of(settings, conninfo) as edge, listening(edge) as address:
        yield edge, address, edge.token("audit:read", "read")


class Download:
    """An export that is read as slowly as the test likes."""

    def __init__(self, address: Address, token: str, more: str = "", path: str = EXPORT) -> None:
        self.connection = http.client.HTTPConnection(*address, timeout=30)
        # The kernel holds only a part of an export that nobody reads.
        self.connection.sock = narrow(address, 1 << 16)
        self.connection.sock.settimeout(30)
        target = f"{path}?organization_id={ORGANIZATION}{more}"
        headers = {"authorization": f"Bearer {token}"}
        self.connection.request("GET", target, headers=headers)
        self.answer = self.connection.getresponse()

    def read(self, size: int) -> bytes:
        return self.answer.read(size)

    def rest(self) -> tuple[int, bytes]:
        """Read to the end. Return (number of bytes, the last ones): a part may end in a line."""
        size, last = 0, b""
        while part := self.answer.read(1 << 18):
            size, last = size + len(part), (last + part)[-10_000:]
        return size, last

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.mark.parametrize(
    ("path", "prefix", "format_"),
    repeated([(EVENTS, "EVT", "csv"), (EXPORT, "AUD", "jsonl"), (EXPORT, "AUD", "csv")]),
)
def test_a_large_export_needs_little_memory(
    large: tuple[Edge, Address, str], path: str, prefix: str, format_: str
) -> None:
    _, address, token = large
    more = f"&format={format_}&after={prefix}-26-099999"
    download = Download(address, token, more, path)
    tracemalloc.start()
    try:
        size, last = download.rest()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        download.close()
    assert f"{prefix}-26-{99_999 + MANY}".encode() in last
    assert size > MANY * 150
    assert peak < size / 2


def test_a_broken_export_does_not_look_complete_and_can_be_resumed(
    large: tuple[Edge, Address, str],
) -> None:
    edge, address, token = large
    download = Download(address, token)
    found = download.read(100_000)
    # A read survives the loss of its connection, but not the loss of the view.
    query(edge.conninfo, _KILL)
    query(edge.conninfo, "ALTER VIEW ledger.event RENAME TO event_away")
    try:
        with pytest.raises(http.client.IncompleteRead) as broken:
            found += download.answer.read()
    finally:
        query(edge.conninfo, "ALTER VIEW ledger.event_away RENAME TO event")
    download.close()
    found += broken.value.partial
    whole = found[: found.rindex(b"\n") + 1]
    last = json.loads(whole.splitlines()[-1])["id"]
    assert last != f"AUD-26-{99_999 + MANY}"
    rest = Download(address, token, f"&after={last}")
    size, end = rest.rest()
    rest.close()
    assert f"AUD-26-{99_999 + MANY}".encode() in end
    complete = Download(address, token)
    assert complete.rest()[0] == len(whole) + size
    complete.close()


def test_an_export_breaks_off_when_a_crash_has_taken_back_the_view(
    large: tuple[Edge, Address, str],
) -> None:
    edge, address, token = large
    download = Download(address, token)
    download.read(100_000)
    query(edge.conninfo, "UPDATE ledger.projection SET position = position - 1")
    try:
        with pytest.raises(http.client.IncompleteRead):
            download.answer.read()
    finally:
        query(edge.conninfo, "UPDATE ledger.projection SET position = position + 1")
        download.close()


def test_an_export_of_a_revoked_key_breaks_off(large: tuple[Edge, Address, str]) -> None:
    edge, address, _ = large
    token = edge.token("audit:read")
    authenticator = edge.service.app.state.services.authenticator
    principal = edge.run(authenticator.authenticate(token, None))
    download = Download(address, token)
    download.read(100_000)
    edge.service.app.state.services.writer.execute(RevokeApiKey(principal.id, COMMAND_LINE))
    # The service does this by itself within 5 s.
    assert edge.run(authenticator.lapsed([principal])) == {principal}
    with pytest.raises(http.client.IncompleteRead):
        download.answer.read()
    download.close()


@pytest.mark.parametrize("path", [EXPORT, EVENTS])
def test_an_export_ends_at_the_position_that_the_log_had_at_its_beginning(
    large: tuple[Edge, Address, str], path: str
) -> None:
    edge, address, token = large
    edge.fresh()
    download = Download(address, token, path=path)
    download.read(100_000)
    line = edge.fresh()
    edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(20)))
    _, last = download.rest()
    download.close()
    position = json.loads(last.splitlines()[-1])["position"]
    assert download.answer.headers["ledger-position"] == str(position)
    assert position < edge.select(_HEAD)[0][0] - 20


def test_many_exports_at_once_leave_room_for_other_reads(large: tuple[Edge, Address, str]) -> None:
    edge, address, token = large
    reader = edge.token("read")
    downloads = [Download(address, token) for _ in range(24)]
    for _ in range(20):
        assert edge.get("/v1/execution", reader).status_code == 200
    for download in downloads:
        download.close()
