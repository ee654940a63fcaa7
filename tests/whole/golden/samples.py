"""A full sample of every event class: the values to which the golden files decode.

The folder ``grown`` has another file for each time that a class has gained fields: its sample sets
them too. The folder ``minimal`` has each class with those fields alone that it required when it was
new. ``python -m tests.whole.golden.samples`` writes the files that do not exist yet; a file that
exists is never written again.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.recorded import Actor, Event, FactIdentity, Recorded
from ledger.engine.values.refusals import RefusalsOmitted, WriteRefused
from ledger.engine.values.values import InstantText
from ledger.features.directory.model import DirectoryNamed
from ledger.features.keys.model import ApiKeyCreated, ApiKeyRevoked, ApiKeyRotated, ApiKeyUpdated
from ledger.features.lines.model import execution_events as e
from ledger.features.runs.model import run as r
from ledger.features.runs.model.reads import RunDataRead
from ledger.features.sign_in.model import SessionBegun, SessionEnded
from ledger.features.usage.model.statement import StatementIssued, StatementWithdrawn
from ledger.features.watches.kinds import BlockerOpen
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.model.alert import (
    AlertAcknowledged,
    AlertOpened,
    AlertReminded,
    AlertResolved,
)
from ledger.features.watches.model.watch import (
    LineChoice,
    WatchCreated,
    WatchDeleted,
    WatchSettings,
    WatchUpdated,
)
from ledger.features.watches.model.watch_hours import WatchHours
from ledger.features.webhooks.model import endpoint as w

FIRST = Path(__file__).parent
GROWN = FIRST / "grown"
MINIMAL = FIRST / "minimal"
SEALED = bytes(range(64))
BY_MODEL = (
    r.TokenUsage("m-large", input=1000, output=500, cache_read=700, cache_write=100, reasoning=200),
    r.TokenUsage("m-small", input=300, output=100),
)
CREW = e.Resource(
    type="talent",
    id="SCR-128491",
    name="Allocated engineer",
    role="senior_backend_engineer",
    allocated_hours_per_week=37.5,
    status="on_leave",
)

WATCH = WatchSettings(
    name="Approval gaps – “two hours”",
    condition=BlockerOpen(causes=("approval_gap",)),
    for_seconds=7200,
    severity="critical",
    hours=WatchHours(time_zone="Europe/Berlin", days=("mon", "fri"), from_="09:00", to="17:30"),
    keep_seconds=60,
    remind_seconds=3600,
    lines=LineChoice(
        execution_model=("capacity",),
        product_line=("talent",),
        project_tag=("PROJ-26-004281",),
        service_line_id=("LIN-26-084729",),
    ),
    enabled=False,
)
ABOUT_ALERT: dict[str, Any] = {
    "alert_id": "ALR-26-000003",
    "watch_id": "WCH-26-000002",
    "watch_name": WATCH.name,
    "severity": "critical",
    "subject": AlertSubject("blocker", "BLK-1"),
    "text": "Payments gateway has been blocked for 2 h by an approval gap: No signature.",
}

NAMED = "build 4711 ü"
RETRIED: dict[str, Any] = {"attempt": 2, "retry_of": "RUN-26-000002"}
BODIES: tuple[Event, ...] = (
    e.Activated(
        execution_id="RUN-26-000419",
        execution_id_origin="supplied",
        product_line="talent",
        execution_model="capacity",
        project_tags=("PROJ-26-004281", "ü"),
        resources=(CREW,),
        started_at=datetime(2026, 1, 15, tzinfo=UTC),
    ),
    e.Updated(project_tags=("PROJ-26-004281",)),
    e.Paused(hold="operator", reason="Stakeholder review"),
    e.HoldChanged(
        hold="operator",
        reason="Review takes longer",
        until=datetime(2026, 4, 20, 7, 30, tzinfo=UTC),
    ),
    e.Resumed(hold="service_line", reason="Review done"),
    e.Blocked(blocker_id="BLK-1", cause="approval_gap", reason="No signature"),
    e.Unblocked(blocker_id="BLK-1", reason="Signed"),
    e.WentIdle(threshold_seconds=900),
    e.Woken(),
    e.Closed(reason="Contract ended"),
    e.CheckedIn(hours=7.25, note="Sprint", resource_id="SCR-128491"),
    e.CheckInVoided(
        fact_id="checkin-1",
        reason="Typo",
        hours=7.25,
        checked_in_at=datetime(2026, 4, 14, 16, 30, tzinfo=UTC),
        resource_id="SCR-128491",
    ),
    e.ResourceAllocated(resource=CREW),
    e.ResourceReleased(id="SCR-128491"),
    e.HealthSignalReported(
        signal="sla_compliance", status="amber", value=0.982, evidence={"tickets": [1, "two"]}
    ),
    DirectoryNamed(name="Müller workspace"),
    r.RunRequested(
        run_id_origin="issued", triggered_by=r.Trigger("user", "USR-26-000044"), input=SEALED
    ),
    r.RunStarted(
        run_id_origin="supplied", triggered_by=r.Trigger("schedule", "CRON-1"), input=SEALED
    ),
    r.RunCompleted(output=SEALED, tokens_used=1840, duration_ms=2411, late=True),
    r.RunFailed(error=SEALED, output=SEALED, tokens_used=12, duration_ms=7, late=True),
    r.RunCancelled(reason="No longer needed", by_closing=True, duration_ms=60_000),
    r.RunErased(reason="Asked for by the data subject"),
    r.RunUsageCorrected(
        tokens_used=1900,
        token_usage=BY_MODEL,
        previous=1840,
        reason="Billed otherwise",
        external_id=NAMED,
        **RETRIED,
    ),
    r.RunParentGiven(parent_run_id="RUN-26-000004", external_id=NAMED, **RETRIED),
    ApiKeyCreated(name="billing", secret_hash=bytes(range(32)), permissions=("read", "write")),
    ApiKeyRevoked(),
    w.WebhookCreated(
        url="https://hooks.example.com/ledger",
        event_types=("execution.blocked", "run.failed"),
        description="Pager",
        enabled=False,
        secret=SEALED,
    ),
    w.WebhookUpdated(
        url="https://hooks.example.com/2",
        event_types=("*",),
        description="Everything",
        enabled=True,
    ),
    w.WebhookSecretRotated(secret=SEALED),
    w.WebhookDisabled(reason="gone"),
    w.WebhookRecoveryRequested(since=datetime(2026, 4, 14, 16, 30, tzinfo=UTC)),
    w.WebhookResendRequested(event_id="EVT-26-000041"),
    w.WebhookTestRequested(),
    w.WebhookDeliveryFailed(
        event_id="EVT-26-000040",
        sequence=12,
        attempts=5,
        response_status=503,
        error="timed out",
    ),
    w.WebhookDeleted(),
    WriteRefused(
        action="execution.pause",
        code="invalid_state",
        resource_type="service_line",
        resource_id="LIN-26-084729",
        source="/talent",
        fact_id="fact-1",
    ),
    RefusalsOmitted(count=1234, since=datetime(2026, 4, 15, 8, 29, tzinfo=UTC)),
    RunDataRead(service_line_id="LIN-26-084729"),
    ApiKeyUpdated(name="billing of 2026", expires_at=datetime(2026, 12, 31, tzinfo=UTC)),
    ApiKeyRotated(secret_hash=bytes(range(32)), prefix="elk_7Qx2aB", grace_seconds=3600),
    SessionBegun(
        by="provider",
        issuer="https://id.example.com",
        permissions=("read", "service_lines:manage"),
        ends_at=datetime(2026, 4, 22, 8, 30, tzinfo=UTC),
    ),
    SessionEnded(by="administrator"),
    StatementIssued(
        organization_id="ORG-26-000001",
        workspace_id="WS-26-000021",
        from_=InstantText("2026-02-28T23:00:00Z"),
        to=InstantText("2026-03-31T22:00:00Z"),
        time_zone="Europe/Berlin",
        as_of=InstantText("2026-04-15T08:30:00.5Z"),
        position=41,
        document_sha256=bytes(range(32)).hex(),
        note="March – “as agreed”",
        reference="PO 4711",
        replaces="STM-26-000001",
    ),
    StatementWithdrawn(reason="A timesheet was missing"),
    WatchCreated(settings=WATCH),
    WatchUpdated(settings=msgspec.structs.replace(WATCH, enabled=True)),
    WatchDeleted(),
    AlertOpened(
        **ABOUT_ALERT,
        condition=BlockerOpen(causes=("approval_gap",)),
        for_seconds=7200,
        since=datetime(2026, 4, 15, 6, 30, tzinfo=UTC),
        due=datetime(2026, 4, 15, 8, 30, tzinfo=UTC),
        evidence=("EVT-26-000017",),
        revision=12,
        began_by="17",
    ),
    AlertReminded(**ABOUT_ALERT, n=2),
    AlertAcknowledged(
        **ABOUT_ALERT,
        note="I call them",
        assignee="Amara Okafor",
        until=datetime(2026, 4, 15, 12, 30, tzinfo=UTC),
    ),
    AlertResolved(**ABOUT_ALERT, reason="recovered"),
)

GROWN_BODIES: tuple[Event, ...] = (
    w.WebhookCreated(
        url="https://hooks.example.com/ledger",
        event_types=("alert.opened", "run.failed"),
        description="Pager",
        enabled=False,
        secret=SEALED,
        format="cloudevents",
        watch_ids=("WCH-26-000001", "WCH-26-000002"),
        min_severity="critical",
        details=False,
    ),
    w.WebhookUpdated(
        url="https://hooks.example.com/2",
        event_types=("*",),
        description="Everything",
        enabled=True,
        watch_ids=("WCH-26-000002",),
        min_severity="warning",
        details=False,
        secret=SEALED,
    ),
    WriteRefused(
        action="execution.checked_in",
        code="invalid_request",
        resource_type="service_line",
        resource_id="LIN-26-084729",
        source="/talent",
        fact_id="fact-1",
        pointers=("/data/hours", "/data/Note"),
    ),
    r.RunRequested(
        run_id_origin="issued",
        triggered_by=r.Trigger("user", "USR-26-000044"),
        input=SEALED,
        external_id=NAMED,
        parent_run_id="RUN-26-000003",
        lease_seconds=60,
        parent_external_id="night ü",
        awaiting=r.Awaiting(3, "WS-26-000021"),
        **RETRIED,
    ),
    r.RunStarted(
        run_id_origin="supplied",
        triggered_by=r.Trigger("schedule", "CRON-1"),
        input=SEALED,
        external_id=NAMED,
        gives_external_id=True,
        parent_run_id="RUN-26-000004",
        lease_seconds=604_800,
        parent_external_id="night ü",
        awaiting=r.Awaiting(1),
        **RETRIED,
    ),
    r.RunCompleted(
        output=SEALED,
        tokens_used=1900,
        duration_ms=2411,
        late=True,
        external_id=NAMED,
        token_usage=BY_MODEL,
        **RETRIED,
    ),
    r.RunFailed(
        error=SEALED,
        output=SEALED,
        tokens_used=12,
        duration_ms=7,
        late=True,
        external_id=NAMED,
        lease_expired=True,
        last_heard_at=datetime(2026, 4, 15, 8, 28, 30, 250_000, tzinfo=UTC),
        token_usage=(r.TokenUsage("m-large", input=12),),
        **RETRIED,
    ),
    r.RunCancelled(
        reason="No longer needed",
        by_closing=True,
        duration_ms=60_000,
        external_id=NAMED,
        tokens_used=1900,
        token_usage=BY_MODEL,
        **RETRIED,
    ),
    r.RunErased(reason="Asked for by the data subject", external_id=NAMED, **RETRIED),
    e.Activated(
        execution_id="RUN-26-000419",
        execution_id_origin="supplied",
        product_line="talent",
        execution_model="capacity",
        project_tags=("PROJ-26-004281", "ü"),
        resources=(CREW,),
        started_at=datetime(2026, 1, 15, tzinfo=UTC),
        name="Müller backend team",
    ),
    e.Updated(project_tags=("PROJ-26-004281",), name="Müller core team"),
    e.Paused(
        hold="operator",
        reason="Stakeholder review",
        until=datetime(2026, 4, 17, 9, tzinfo=UTC),
    ),
    e.Blocked(
        blocker_id="BLK-1",
        cause="approval_gap",
        reason="No signature",
        assignee="USR-26-000044",
        due_at=datetime(2026, 4, 17, 12, tzinfo=UTC),
    ),
    ApiKeyCreated(
        name="billing",
        secret_hash=bytes(range(32)),
        permissions=("read", "keys:manage"),
        expires_at=datetime(2026, 12, 31, tzinfo=UTC),
        prefix="elk_7Qx2aB",
    ),
)
"""A sample with all of its fields for each time that a class has gained fields, in that order."""


def envelope(body: Event) -> Recorded:
    """The body in an envelope whose every field is set."""
    return Recorded(
        originator_id="LIN-26-084729",
        originator_version=7,
        position=42,
        occurred_at=datetime(2026, 4, 15, 8, 30, tzinfo=UTC),
        recorded_at=datetime(2026, 4, 15, 8, 30, 0, 123_456, tzinfo=UTC),
        actor=Actor("agent", "AGT-1"),
        reported_by="KEY-26-000001",
        organization_id="ORG-26-000001",
        workspace_id="WS-26-000021",
        service_line_id="LIN-26-084729",
        fact=FactIdentity("/talent", "fact-1", bytes(range(32))),
        request_id="req-1",
        causation_id="EVT-26-000041",
        nonce=bytes(range(16)),
        body=body,
    )


def minimal(body: Event) -> Event:
    """The body with only those fields that the class requires now."""
    fields = msgspec.structs.fields(body)
    return type(body)(**{f.name: getattr(body, f.name) for f in fields if f.required})


def file_of(topic: str, folder: Path = FIRST) -> Path:
    return folder / f"{topic.replace('/', '_')}.json"


def grown_file(body: Event) -> Path:
    """The golden file of a grown sample; the second one of a class has its number in the name."""
    rank = [type(each) for each in GROWN_BODIES[: GROWN_BODIES.index(body)]].count(type(body))
    return file_of(f"{body.TOPIC}/{rank + 1}" if rank else body.TOPIC, GROWN)


def main() -> None:
    mapper = EnvelopeMapper()
    files = {file_of(body.TOPIC): body for body in BODIES}
    files |= {file_of(body.TOPIC, MINIMAL): minimal(body) for body in BODIES}
    files |= {grown_file(body): body for body in GROWN_BODIES}
    for path, body in files.items():
        if not path.exists():
            path.write_bytes(mapper.encode(envelope(body)))


if __name__ == "__main__":
    main()
