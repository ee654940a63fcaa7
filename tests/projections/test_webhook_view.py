"""Which events an endpoint gets, and their numbers, are a fold of the log alone (contract 5)."""

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.application.command import Command
from ledger.application.commands import webhooks
from ledger.application.report import ReportFact
from ledger.domain.endpoint import WebhookDeliveryFailed
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.request import Receipt
from ledger.language.published import TYPES
from tests.support.facts import activation, fact
from tests.support.ledger import Ledger, instant
from tests.support.managers import SECRET, due_to
from tests.support.racers import parsed
from tests.support.rebuilding import rebuild, verify, view
from tests.support.views import projecting, query
from tests.support.webhooks import events_of

_tenants = itertools.count(100_001)
_fields = ["execution.checked_in", "health.changed", "execution.updated", "webhook.delivery_failed"]


class Story:
    """A fresh organization with a line in each of two workspaces; things happen to it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        number = next(_tenants)
        self.organization = f"ORG-26-{number}"
        self.workspaces = ("WS-26-000001", "WS-26-000002")
        self.endpoints: list[str] = []
        self.lines = []
        for workspace in self.workspaces:
            line = f"LIN-26-{next(_tenants)}"
            tenant = {"organization_id": self.organization, "workspace_id": workspace}
            self.do(ReportFact(parsed(activation(line, "capacity", **tenant)), COMMAND_LINE))
            self.lines.append(line)

    def do(self, command: Command) -> Receipt | None:
        """Carry it out, or not."""
        outcome = self._ledger.writer.execute(command)
        return outcome if isinstance(outcome, Receipt) else None

    def step(self, name: str, number: int, types: list[str] | None, enabled: bool) -> None:
        """One thing that happens."""
        if name == "create":
            self.create(types, enabled, number)
        elif name in ("check in", "health", "tags"):
            self.report(name, number)
        elif self.endpoints:
            self.manage(name, self.endpoints[number % len(self.endpoints)], types, enabled)

    def create(self, types: list[str] | None, enabled: bool, number: int) -> str:
        chosen = webhooks.EndpointSettings(
            "http://127.0.0.1:9/", tuple(types or ["*"]), None, enabled
        )
        made = self.do(
            webhooks.CreateEndpoint(
                COMMAND_LINE,
                None,
                secret=SECRET,
                settings=chosen,
                organization_id=self.organization,
                workspace_id=(None, None, *self.workspaces)[number % 4],
            )
        )
        assert made is not None
        self.endpoints.append(made.subject)
        return made.subject

    def report(self, name: str, number: int) -> None:
        line = self.lines[number % 2]
        told: dict[str, tuple[str, dict[str, Any]]] = {
            "check in": ("execution.checked_in", {"hours": 1}),
            "health": (
                "health.signal_reported",
                {"signal": "sla_compliance", "status": ("green", "red")[number % 3 // 2]},
            ),
            "tags": ("service_line.updated", {"project_tags": [str(number)]}),
        }
        kind, data = told[name]
        self.do(ReportFact(parsed(fact(kind, line, data)), COMMAND_LINE))

    def manage(self, name: str, endpoint: str, types: list[str] | None, enabled: bool) -> None:
        target = (endpoint, COMMAND_LINE)
        changed = webhooks.EndpointSettings(event_types=tuple(types or ["*"]), enabled=enabled)
        failed = WebhookDeliveryFailed(event_id="EVT-26-000001", sequence=1, attempts=5)
        commands: dict[str, Command] = {
            "update": webhooks.UpdateEndpoint(*target, settings=changed),
            "disable": webhooks.DisableEndpoint(endpoint, "gone", "http://127.0.0.1:9/"),
            "delete": webhooks.DeleteEndpoint(*target),
            "test": webhooks.TestEndpoint(*target),
            "recover": webhooks.RecoverEndpoint(*target, since=instant("2026-01-01T00:00:00Z")),
            "give up": webhooks.GiveUpDelivery(endpoint, "EVT-26-000001", next(_tenants), failed),
        }
        self.do(commands[name])


def numbered(conninfo: str, endpoint: str) -> dict[int, str]:
    """What the view has for an endpoint: sequence → event id, in log order."""
    rows = query(
        conninfo,
        "SELECT sequence, 'EVT-' || number FROM ledger.webhook_message"
        " WHERE endpoint_id = %s AND kind = 'event' ORDER BY position",
        endpoint,
    )
    return dict(rows)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["create", "check in", "check in", "health", "health", "tags", "update", "disable",
             "delete", "test", "recover", "give up"]
        ),
        st.integers(0, 11),
        st.none() | st.lists(st.sampled_from(_fields), min_size=1, max_size=3, unique=True),
        st.booleans(),
    ),
    min_size=8,
    max_size=30,
)  # fmt: skip


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=_STEPS, first=st.booleans())
def test_numbers_count_what_matches_while_enabled(
    ledger: Ledger, steps: list[Any], first: bool
) -> None:
    story = Story(ledger)
    before = ledger.head()
    story.create(None, first, 0)
    story.create(["webhook.delivery_failed", "health.changed"], True, 2)
    for step in steps:
        story.step(*step)
        if step[1] % 4 == 0:
            ledger.catch_up()
    ledger.catch_up()
    events = [e for e in events_of(ledger.conninfo) if e.organization_id == story.organization]
    asked = {"webhook.test_requested/1": 0, "webhook.recovery_requested/1": 0}
    for event in events:
        topic = type(event.body).TOPIC
        if topic in asked:
            asked[topic] += 1
    for endpoint in story.endpoints:
        expected = due_to(events, endpoint)
        assert numbered(ledger.conninfo, endpoint) == expected
        rows = ledger.rows("SELECT * FROM ledger.webhook WHERE endpoint_id = %s", endpoint)
        assert [row["sequence"] for row in rows] == [len(expected)]
        assert rows[0]["position"] > before
        latest = max((int(e.rsplit("-", 1)[1]) for e in expected.values()), default=0)
        assert rows[0]["latest"] == latest
    kinds = ledger.rows(
        "SELECT kind, count(*) AS n FROM ledger.webhook_message JOIN ledger.webhook"
        " USING (endpoint_id) WHERE organization_id = %s AND kind <> 'event' GROUP BY kind",
        story.organization,
    )
    found = {row["kind"]: row["n"] for row in kinds}
    assert found.get("test", 0) == asked["webhook.test_requested/1"]
    assert found.get("recovery", 0) == asked["webhook.recovery_requested/1"]


def test_a_rebuild_gives_the_same_numbers_and_so_does_a_view_that_was_dropped(
    ledger: Ledger,
) -> None:
    story = Story(ledger)
    for _ in range(4):
        story.create(None, True, next(_tenants))
    for number, name in enumerate(["check in", "health", "disable", "update", "test"] * 12):
        story.step(name, number, ["*"], number % 3 > 0)
    ledger.catch_up()
    before = {endpoint: numbered(ledger.conninfo, endpoint) for endpoint in story.endpoints}
    assert min(map(len, before.values())) > 1
    assert verify(ledger.conninfo, view("webhook"))[0].differing == 0
    ledger.projector._disconnect()
    for table in ("webhook", "webhook_message", "webhook_health"):
        query(ledger.conninfo, f"TRUNCATE ledger.{table}_g1")
    built = rebuild(ledger.conninfo, view("webhook"))
    assert built.generation == 2
    assert built.differing is not None
    assert built.differing > 20
    assert {e: numbered(ledger.conninfo, e) for e in story.endpoints} == before
    with projecting(ledger.conninfo) as projector:
        projector.catch_up()
    assert verify(ledger.conninfo, view("webhook"))[0].differing == 0


def test_an_unchanged_health_report_is_numbered_for_nobody_however_long_ago_the_first_was(
    ledger: Ledger,
) -> None:
    story = Story(ledger)
    story.report("health", 0)
    ledger.catch_up()
    ledger.projector._disconnect()
    endpoint = story.create(["health.changed"], True, 0)
    # Another process goes on from the stored rows alone.
    with projecting(ledger.conninfo) as projector:
        story.report("health", 0)
        projector.catch_up()
        assert numbered(ledger.conninfo, endpoint) == {}
        story.report("health", 2)
        projector.catch_up()
        assert list(numbered(ledger.conninfo, endpoint)) == [1]


def test_every_type_reaches_whoever_asked_for_it(ledger: Ledger) -> None:
    assert set(_fields) <= set(TYPES)
    story = Story(ledger)
    made = {type_: story.create([type_], True, 0) for type_ in TYPES}
    whole = story.create(None, True, 0)
    for name in ("check in", "health", "tags"):
        story.report(name, 0)
    story.manage("give up", whole, None, True)
    ledger.catch_up()
    told = {type_ for type_, endpoint in made.items() if numbered(ledger.conninfo, endpoint)}
    assert told == set(_fields)
    assert len(numbered(ledger.conninfo, whole)) == 3, "not of itself"


@pytest.mark.parametrize("kind", ["test", "recover"])
def test_what_is_asked_for_is_a_message_without_a_number(ledger: Ledger, kind: str) -> None:
    story = Story(ledger)
    endpoint = story.create(None, True, 0)
    story.manage(kind, endpoint, None, True)
    story.report("check in", 0)
    ledger.catch_up()
    rows = ledger.rows(
        "SELECT kind, sequence, item, since, position FROM ledger.webhook_message"
        " WHERE endpoint_id = %s ORDER BY position",
        endpoint,
    )
    first, second = rows
    assert (second["kind"], second["sequence"]) == ("event", 1)
    assert first["kind"] == ("test" if kind == "test" else "recovery")
    assert first["sequence"] == (0 if kind == "test" else None)
    assert (first["item"] is None, first["since"] is None) == (kind != "test", kind == "test")
    (row,) = ledger.rows("SELECT requested FROM ledger.webhook WHERE endpoint_id = %s", endpoint)
    assert row["requested"] == first["position"]
