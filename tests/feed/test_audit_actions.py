"""The audit log's filter ``action``: it takes actions and event types (contract, Feeds).

Feeds and the page call a pause ``execution.paused``; the audit log calls it ``execution.pause`` or
``service_line.paused``. A filter by the event type must find the entries of these actions.
"""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from ledger.engine.writer.command import OwnCommand
from ledger.features.facts.fact_types import ALIASES, FACT_TYPES
from ledger.features.feed.audited import ACTIONS, COMMANDS, OMITTED_ACTION, actions_of
from ledger.features.feed.published import TYPES
from tests.support.audits import REASON, SYSTEM_TYPES, Entry, Tenant
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact

FOUND: dict[str, set[str]] = {
    "execution.paused": {"execution.pause", "service_line.paused"},
    "execution.resumed": {"execution.resume", "service_line.resumed"},
    "execution.started": {"service_line.activated"},
    "execution.updated": {"service_line.updated"},
    "execution.closed": {"service_line.closed"},
    "execution.blocked": {"execution.blocked"},
    "health.changed": {"health.signal_reported"},
    "run.erased": {"run.erase"},
    "run.started": {"run.started"},
    "execution.paused,run.erased": {"execution.pause", "service_line.paused", "run.erase"},
    "execution.closed,key.create": {"service_line.closed", "key.create"},
    "service_line.paused": {"service_line.paused"},
    "execution.pause": {"execution.pause"},
}
"""A filter → the actions that it must find; the words of ``SYSTEM_TYPES`` find nothing."""


@pytest.fixture(scope="module")
def busy(edge: Edge) -> Tenant:
    """A tenant whose audit log has entries of each action above, most actions also refused."""
    tenant, line = Tenant(edge), ""
    manager = tenant.new_token("admin", organization_id=None)
    for _ in range(2):
        line = tenant.line()
        run = edge.accept(fact("run.started", None, {"service_line_id": line}), token=tenant.token)[
            0
        ]["subject"]
        blocker = {"blocker_id": "b", "cause": "approval_gap"}
        signal = {"signal": "sla_compliance", "status": "red"}
        for event in (
            fact("service_line.updated", line, {"project_tags": ["t"]}),
            fact("service_line.paused", line),
            fact("service_line.paused", line),
            fact("service_line.resumed", line),
            fact("execution.blocked", line, blocker),
            fact("execution.unblocked", line, {"blocker_id": "b"}),
            fact("health.signal_reported", line, signal),
            fact("health.signal_reported", line, signal),
            fact("run.completed", run),
        ):
            edge.send(event, tenant.token)
        for _ in range(2):
            tenant.pause(line)
        edge.post(f"/v1/execution/{line}/resume", tenant.token)
        edge.post(f"/v1/runs/{run}/erase", manager, **REASON)
        edge.accept(fact("service_line.closed", line), token=tenant.token)
        edge.send(fact("service_line.closed", line), tenant.token)
        # There is no such type of fact: the audit log has the refusal under the type that was sent.
        edge.send(fact("execution.resumed", line), tenant.token)
        edge.send(fact("service_line.praised", line), tenant.token)
        edge.send(fact("run.failed", run) | {"type": None}, tenant.token)
    return tenant


def chosen(busy: Tenant, words: str) -> list[Entry]:
    """The entries of the whole audit log that a filter must find."""
    named = {action for word in words.split(",") for action in FOUND.get(word, set()) | {word}}
    return [entry for entry in busy.log() if entry["action"] in named]


@pytest.mark.parametrize("words", FOUND)
def test_a_filter_by_event_type_finds_the_entries_of_its_actions(busy: Tenant, words: str) -> None:
    found = busy.log(action=words)
    assert {entry["action"] for entry in found} >= FOUND[words]
    assert found == chosen(busy, words)
    assert busy.log(action=words, limit=1) == found, "a cursor goes on under the same word"
    for outcome in ("succeeded", "refused"):
        expected = [entry for entry in found if entry["outcome"] == outcome]
        assert busy.log(action=words, outcome=outcome) == expected
    assert busy.log(action=words, actor_type="user") == []


def test_a_filter_by_event_type_finds_refused_facts_sent_under_that_name(busy: Tenant) -> None:
    found = busy.log(action="execution.resumed", outcome="refused")
    assert [entry["action"] for entry in found] == ["execution.resumed"] * 2


def test_the_filter_unknown_finds_refused_facts_without_a_type(busy: Tenant) -> None:
    (first, second) = busy.log(action="unknown")
    assert {first["outcome"], second["outcome"]} == {"refused"}


@pytest.mark.parametrize("word", sorted(SYSTEM_TYPES))
def test_a_filter_by_an_event_type_of_the_system_finds_nothing(busy: Tenant, word: str) -> None:
    assert busy.log(action=word) == []
    closed = busy.log(action="service_line.closed")
    assert busy.log(action=f"{word},service_line.closed") == closed != []


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize("words", ["execution.paused", "execution.closed,key.create"])
def test_exports_by_event_type_have_the_same_entries(busy: Tenant, words: str, kind: str) -> None:
    path = f"/v1/audit-logs/export?organization_id={busy.organization}&format={kind}"
    export = busy.edge.get(f"{path}&action={words}", busy.token).text
    lines = export.splitlines()[kind == "csv" :]
    expected = [entry["id"] for entry in chosen(busy, words)]
    assert len(lines) == len(expected) > 2
    assert all(entry_id in line for entry_id, line in zip(expected, lines, strict=True))


@pytest.mark.parametrize("path", ["", "/export", "/export?format=csv"])
@pytest.mark.parametrize(
    "words",
    ["execution.stopped", "nothing", "service_line.praised", "Execution.Paused", " execution.pause",
     "execution.pause,", "execution.pause,,key.create", ",", "agent.run.started", "*",
     "execution.paused,execution.stopped", "run.", "webhook"],
)  # fmt: skip
def test_a_filter_with_an_unknown_word_is_refused(tenant: Tenant, path: str, words: str) -> None:
    path, _, query = f"/v1/audit-logs{path}".partition("?")
    address = f"{path}?organization_id={tenant.organization}&action={quote(words)}&{query}"
    answer = tenant.edge.get(address.rstrip("&"), tenant.token)
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/action"]
    assert words.strip(" ,") not in answer.text or len(words) < 2


def test_an_unknown_word_is_refused_with_a_cursor_too(busy: Tenant) -> None:
    path = f"/v1/audit-logs?organization_id={busy.organization}&limit=1&action="
    cursor = busy.edge.get(f"{path}execution.paused", busy.token).json()["meta"]["cursor"]
    again = busy.edge.get(f"{path}execution.paused&cursor={cursor}", busy.token)
    assert again.status_code == 200
    answer = busy.edge.get(f"{path}execution.stopped&cursor={cursor}", busy.token)
    assert_problem(answer, 422, "invalid_request")
    answer = busy.edge.get(f"{path}execution.resumed&cursor={cursor}", busy.token)
    assert_problem(answer, 400, "invalid_cursor")


# Completeness: every type and every command has its action.


def test_each_published_type_has_an_action_or_is_one_of_the_system_types() -> None:
    lost = {type_ for type_ in TYPES if not actions_of(type_) & ACTIONS}
    assert lost == SYSTEM_TYPES


def test_the_actions_are_the_types_of_facts_and_the_commands() -> None:
    assert set(FACT_TYPES) - ACTIONS == set()
    assert ACTIONS - COMMANDS - {"unknown"} == set(FACT_TYPES)
    assert not ACTIONS & set(ALIASES), "they are audited under their run.* name"


def command_classes(kind: type[OwnCommand]) -> Iterator[type[OwnCommand]]:
    """Every class of commands, without those of the demo's story; a fact is none of them."""
    for subclass in kind.__subclasses__():
        if subclass.__module__.startswith(("ledger.engine.", "ledger.features.")):
            yield subclass
            yield from command_classes(subclass)


UNAUDITED = {
    "AskForClaims", "BeginSession", "DisableEndpoint", "EndSessionsOfProvider", "EnterTenant",
    "ExpireLease", "GiveParent", "GiveUpDelivery", "GoIdle", "Heartbeat", "KeepClaims", "LiftHold",
    "OpenAlert", "OpenSourceAlert", "RemindOfAlert", "ResolveAlert", "TellOmitted",
}  # fmt: skip
"""The commands whose refusals the audit log does not keep: the ledger's own, and heartbeats."""

BASES = {
    "ManagedCommand", "NewCommand", "RefusedWrite", "SubjectCommand", "_EndpointCommand",
    "_KeyCommand", "_OfLine", "_SessionCommand",
}  # fmt: skip
"""Base classes, and the command that carries the action of another one."""


def test_each_command_whose_refusal_is_audited_has_an_action() -> None:
    actions = {kind.__name__: kind.action for kind in command_classes(OwnCommand)}
    assert {name for name, action in actions.items() if not action} == UNAUDITED | BASES
    assert {action for action in actions.values() if action} <= COMMANDS, (
        "no row of an event names the command's action"
    )


def test_each_command_action_belongs_to_a_command() -> None:
    actions = {getattr(kind, "action", "") for kind in command_classes(OwnCommand)}
    # The dispatcher disables endpoints, and is never refused; a sign-in is refused by no command.
    unrefused = {"webhook.disable", "session.begin", "session.refuse"}
    assert COMMANDS - {OMITTED_ACTION} - unrefused - actions == set(), "no command has this action"


def test_each_action_and_event_type_is_documented(edge: Edge) -> None:
    document = edge.get("/openapi.json").json()
    operation = document["paths"]["/v1/audit-logs"]["get"]
    (action,) = (p for p in operation["parameters"] if p["name"] == "action")
    assert action["schema"]["items"] == {"$ref": "#/components/schemas/AuditAction"}
    words = document["components"]["schemas"]["AuditAction"]["enum"]
    assert sorted(words) == sorted(ACTIONS | TYPES.keys())
