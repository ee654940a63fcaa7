"""An endpoint's events and their sequence numbers are a fold of the log (contract, Feeds)."""

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Receipt
from ledger.features.facts.report import command_of
from ledger.features.feed.published import TYPES
from ledger.features.webhooks import commands as webhooks
from ledger.features.webhooks.model.endpoint import WebhookDeliveryFailed
from tests.support.facts import activation, fact
from tests.support.ledger import Ledger, instant
from tests.support.model import Model
from tests.support.racing_writers import parsed
from tests.support.rebuilding import rebuild, verify, view
from tests.support.soak import repeated
from tests.support.views import projecting, query
from tests.support.webhook_workload import SECRET

_tenants = itertools.count(100_001)
_event_types = [
    "execution.checked_in",
    "health.changed",
    "execution.updated",
    "webhook.delivery_failed",
]


class Story:
    """A new organization with a line in each of two workspaces, and the commands that change it."""

    def __init__(self, own_ledger: Ledger) -> None:
        self._ledger = own_ledger
        number = next(_tenants)
        self.organization = f"ORG-26-{number}"
        self.workspaces = ("WS-26-000001", "WS-26-000002")
        self.endpoints: list[str] = []
        self.lines = []
        for workspace in self.workspaces:
            line = f"LIN-26-{next(_tenants)}"
            tenant = {"organization_id": self.organization, "workspace_id": workspace}
            self.do(command_of(parsed(activation(line, "capacity", **tenant)), COMMAND_LINE))
            self.lines.append(line)

    def do(self, command: Command) -> Receipt | None:
        """Execute a command; return its receipt, or None if it is refused."""
        outcome = self._ledger.writer.execute(command)
        return outcome if isinstance(outcome, Receipt) else None

    def step(self, name: str, number: int, types: list[str] | None, enabled: bool) -> None:
        """Report the fact or execute the command of this name."""
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
        receipt = self.do(
            webhooks.CreateEndpoint(
                COMMAND_LINE,
                None,
                secret=SECRET,
                settings=chosen,
                organization_id=self.organization,
                workspace_id=(None, None, *self.workspaces)[number % 4],
            )
        )
        assert receipt is not None
        self.endpoints.append(receipt.subject)
        return receipt.subject

    def report(self, name: str, number: int) -> None:
        line = self.lines[number % 2]
        facts: dict[str, tuple[str, dict[str, Any]]] = {
            "check in": ("execution.checked_in", {"hours": 1}),
            "health": (
                "health.signal_reported",
                {"signal": "sla_compliance", "status": ("green", "red")[number % 3 // 2]},
            ),
            "tags": ("service_line.updated", {"project_tags": [str(number)]}),
        }
        kind, data = facts[name]
        self.do(command_of(parsed(fact(kind, line, data)), COMMAND_LINE))

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
            "resend": webhooks.ResendDelivery(*target, event_id="EVT-26-000001", has_delivery=True),
            "give up": webhooks.GiveUpDelivery(endpoint, "EVT-26-000001", next(_tenants), failed),
        }
        self.do(commands[name])


def numbered(conninfo: str, endpoint: str) -> dict[int, str]:
    """The messages of an endpoint in the view: sequence → event id, in log order."""
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
             "delete", "test", "recover", "resend", "give up"]
        ),
        st.integers(0, 11),
        st.none() | st.lists(st.sampled_from(_event_types), min_size=1, max_size=3, unique=True),
        st.booleans(),
    ),
    min_size=8,
    max_size=30,
)  # fmt: skip


@pytest.mark.parametrize("examples", repeated([8, 60]))
def test_sequence_numbers_count_the_matching_events_while_an_endpoint_is_enabled(
    own_ledger: Ledger, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(steps=_STEPS, first=st.booleans())
    def holds(steps: list[Any], first: bool) -> None:
        story = Story(own_ledger)
        before = own_ledger.head()
        story.create(None, first, 0)
        story.create(["webhook.delivery_failed", "health.changed"], True, 2)
        for step in steps:
            story.step(*step)
            if step[1] % 4 == 0:
                own_ledger.catch_up()
        own_ledger.catch_up()
        own = {"organization_id": story.organization}.items()
        events = [event for event in own_ledger.events() if own <= event["state"].items()]
        topics = Counter(event["topic"] for event in events)
        model = Model(events)
        for endpoint in story.endpoints:
            expected = model.due_to(endpoint)
            assert numbered(own_ledger.conninfo, endpoint) == expected
            rows = own_ledger.rows("SELECT * FROM ledger.webhook WHERE endpoint_id = %s", endpoint)
            assert [row["sequence"] for row in rows] == [len(expected)]
            assert rows[0]["position"] > before
            latest = max((int(e.rsplit("-", 1)[1]) for e in expected.values()), default=0)
            assert rows[0]["latest"] == latest
        kinds = own_ledger.rows(
            "SELECT kind, count(*) AS n FROM ledger.webhook_message JOIN ledger.webhook"
            " USING (endpoint_id) WHERE organization_id = %s AND kind <> 'event' GROUP BY kind",
            story.organization,
        )
        counts = {row["kind"]: row["n"] for row in kinds}
        assert counts.get("test", 0) == topics["webhook.test_requested/1"]
        requested = ("webhook.recovery_requested/1", "webhook.resend_requested/1")
        assert counts.get("recovery", 0) == sum(topics[topic] for topic in requested)

    holds()


def test_a_rebuild_of_emptied_tables_gives_the_same_sequence_numbers(
    own_ledger: Ledger,
) -> None:
    story = Story(own_ledger)
    for _ in range(4):
        story.create(None, True, next(_tenants))
    for number, name in enumerate(["check in", "health", "disable", "update", "test"] * 12):
        story.step(name, number, ["*"], number % 3 > 0)
    own_ledger.catch_up()
    before = {endpoint: numbered(own_ledger.conninfo, endpoint) for endpoint in story.endpoints}
    assert min(map(len, before.values())) > 1
    assert verify(own_ledger.conninfo, view("webhook"))[0].differing == 0
    own_ledger.projector.disconnect()
    for table in ("webhook", "webhook_message", "webhook_health"):
        query(own_ledger.conninfo, f"TRUNCATE ledger.{table}_g1")
    built = rebuild(own_ledger.conninfo, view("webhook"))
    assert built.generation == 2
    assert built.differing is not None
    assert built.differing > 20
    assert {e: numbered(own_ledger.conninfo, e) for e in story.endpoints} == before
    with projecting(own_ledger.conninfo) as projector:
        projector.catch_up()
    assert verify(own_ledger.conninfo, view("webhook"))[0].differing == 0


def test_a_health_report_without_a_change_gets_no_number_from_a_restarted_projector(
    own_ledger: Ledger,
) -> None:
    story = Story(own_ledger)
    story.report("health", 0)
    own_ledger.catch_up()
    own_ledger.projector.disconnect()
    endpoint = story.create(["health.changed"], True, 0)
    # The next projector goes on from the stored rows alone.
    with projecting(own_ledger.conninfo) as projector:
        story.report("health", 0)
        projector.catch_up()
        assert numbered(own_ledger.conninfo, endpoint) == {}
        story.report("health", 2)
        projector.catch_up()
        assert list(numbered(own_ledger.conninfo, endpoint)) == [1]


def test_an_endpoint_for_a_single_event_type_gets_the_events_of_that_type(
    own_ledger: Ledger,
) -> None:
    assert set(_event_types) <= set(TYPES)
    story = Story(own_ledger)
    by_type = {type_: story.create([type_], True, 0) for type_ in TYPES}
    whole = story.create(None, True, 0)
    for name in ("check in", "health", "tags"):
        story.report(name, 0)
    story.manage("give up", whole, None, True)
    own_ledger.catch_up()
    reached = {
        type_ for type_, endpoint in by_type.items() if numbered(own_ledger.conninfo, endpoint)
    }
    assert reached == set(_event_types)
    assert len(numbered(own_ledger.conninfo, whole)) == 3, "no event about the endpoint itself"


@pytest.mark.parametrize("kind", ["test", "recover"])
def test_a_requested_test_or_recovery_is_a_message_without_a_number(
    own_ledger: Ledger, kind: str
) -> None:
    story = Story(own_ledger)
    endpoint = story.create(None, True, 0)
    story.manage(kind, endpoint, None, True)
    story.report("check in", 0)
    own_ledger.catch_up()
    rows = own_ledger.rows(
        "SELECT kind, sequence, item, since, position FROM ledger.webhook_message"
        " WHERE endpoint_id = %s ORDER BY position",
        endpoint,
    )
    first, second = rows
    assert (second["kind"], second["sequence"]) == ("event", 1)
    assert first["kind"] == ("test" if kind == "test" else "recovery")
    assert first["sequence"] == (0 if kind == "test" else None)
    assert (first["item"] is None, first["since"] is None) == (kind != "test", kind == "test")
    (row,) = own_ledger.rows(
        "SELECT requested FROM ledger.webhook WHERE endpoint_id = %s", endpoint
    )
    assert row["requested"] == first["position"]
