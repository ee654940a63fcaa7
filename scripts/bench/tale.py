"""The tale: a small ledger with every kind of content, made through a version's public interface.

The tale has every kind of event, fact and command, refusals of each kind, all six models, two
organizations with three workspaces, texts in many scripts, and a line with so many events that it
has a snapshot. ``tell`` raises if any of these is missing. The tale's times lie in the six weeks
before; the lines of agents begin now, since they would be idle otherwise.
"""

import psycopg
import tale_webhooks
from product import NEVER_IDLE, Product
from teller import Teller, UntoldError, consts
from versions import Version

ORGANIZATION, OTHER = "ORG-26-000001", "ORG-26-000002"
FIRST, SECOND, THIRD = "WS-26-000001", "WS-26-000002", "WS-26-000003"

LONG, SLA, CYCLE, INFRA, INTEL, AGENT, CLOSING, QUIET, WOKEN, OTHERS, LATER, BARE = (
    f"LIN-26-{number:06d}" for number in range(1, 13)
)
LINES = {
    LONG: (ORGANIZATION, FIRST, "talent", "capacity"),
    SLA: (ORGANIZATION, FIRST, "managed_services", "ongoing_sla"),
    CYCLE: (ORGANIZATION, SECOND, "ods", "timeboxed_outcome"),
    INFRA: (ORGANIZATION, SECOND, "infrastructure", "infra_managed"),
    INTEL: (ORGANIZATION, FIRST, "intelligence", "observability"),
    AGENT: (ORGANIZATION, FIRST, "agent_gateway", "agent_runtime"),
    CLOSING: (ORGANIZATION, SECOND, "ods", "timeboxed_outcome"),
    QUIET: (ORGANIZATION, FIRST, "agent_gateway", "agent_runtime"),
    WOKEN: (ORGANIZATION, SECOND, "talent", "agent_runtime"),
    OTHERS: (OTHER, THIRD, "ods", "timeboxed_outcome"),
    LATER: (OTHER, THIRD, "agent_gateway", "agent_runtime"),
    BARE: (ORGANIZATION, FIRST, "talent", "ongoing_sla"),
}
CHECK_INS = 205  # of the long line: snapshots are taken after 200 events
MOST_REFUSALS = 20  # the limit that `short_limits.py` sets
MASTER_KEY = "0f" * 32

SETTINGS = {
    "LEDGER_MASTER_KEY": MASTER_KEY,
    "LEDGER_IDLE_AFTER_AGENT_RUNTIME": "900",
    "LEDGER_IDLE_AFTER_DEFAULT": NEVER_IDLE,
    "LEDGER_IDLE_SWEEP_SECONDS": "0.2",
    "LEDGER_WEBHOOK_RETRY_SECONDS": "0.1,0.1",
    "LEDGER_WEBHOOK_ALLOW_PRIVATE": "true",
}
"""The settings of the service that hears the tale; `short_limits.py` must start that service."""

NAMES = "Zoë Ångström-Иванова 李小龍 🚀"
TEXT = 'Quote " backslash \\ tab \t newline \n ünïcödé ☃ 漢字 \U0001f680 \u2028 <b>&amp;</b>'


def tell(product: Product, version: Version) -> dict[str, str]:
    """Tell the whole tale; return the keys by role. Raises UntoldError if any part is missing."""
    teller = Teller(product)
    create_keys(teller)
    with tale_webhooks.receiving() as receiver:
        hooks = tale_webhooks.set_up(teller, receiver)
        begin(teller)
        work(teller)
        stand_still(teller)
        be_idle(teller)
        have_runs(teller)
        be_named(teller)
        keep_keys(teller)
        close(teller)
        erase(teller)
        be_refused(teller)
        flood(teller)
        tale_webhooks.go_on(teller, receiver, hooks)
        teller.revoke_key("revoked")
        teller.settle()
    require_all(teller, version)
    return teller.keys


def create_keys(teller: Teller) -> None:
    """Create a key for each kind of access to the ledger."""
    every = "--permission read write service_lines:manage webhooks:manage audit:read runs:erase"
    ours = ["--organization", ORGANIZATION]
    teller.create_key("organization", *ours, *every.split())
    teller.create_key("admin", "--admin")
    teller.create_key("workspace", *ours, "--workspace", SECOND, *every.split())
    teller.create_key("other", "--organization", OTHER, *every.split())
    teller.create_key("writer", *ours, "--permission", "write")
    teller.create_key("flooder", *ours, "--permission", "write")
    teller.create_key("revoked", *ours, "--permission", "read")


def begin(teller: Teller) -> None:
    """Begin every line: in the past, or now if agents work on it."""
    for number, (line, (organization, workspace, product_line, model)) in enumerate(LINES.items()):
        more = {}
        if line not in (AGENT, LATER):
            more = {"time_": teller.ago(days=42, minutes=number)}
        if line == LONG:
            more["resources"] = [
                {"id": "SCR-1", "type": "talent", "name": NAMES, "role": "senior_backend_engineer",
                 "allocated_hours_per_week": 37.5},
                {"id": "SCR-2", "type": "talent", "status": "on_leave"},
            ]  # fmt: skip
        if line in (LONG, SLA, CYCLE, OTHERS):
            more["project_tags"] = ["PROJ-26-000001", NAMES, f"PROJ-26-{number + 1:06d}"]
        if line == CYCLE:
            more |= {"execution_id": "RUN-26-700001", "started_at": teller.ago(days=43)}
        role = "other" if organization == OTHER else "organization"
        tenant = {"organization_id": organization, "workspace_id": workspace}
        kinds = {"product_line": product_line, "execution_model": model}
        teller.report(
            teller.fact("service_line.activated", line, **tenant, **kinds, **more), role=role
        )


def work(teller: Teller) -> None:
    """Report check-ins, people, health: in batches, alone in both modes, by an imported file."""
    fact, ago = teller.fact, teller.ago
    hours = (0, 0.01, 7.25, None)
    every = [
        fact("execution.checked_in", LONG, hours=hours[n % 4], time_=ago(days=40 - n / 6),
             resource_id=(None, "SCR-1", "SCR-2")[n % 3], note=TEXT if n % 50 == 0 else None)
        for n in range(CHECK_INS)
    ]  # fmt: skip
    teller.report(*every)
    voided = {"fact_id": every[3]["id"], "reason": "Typo"}
    teller.report(
        fact("execution.check_in_voided", LONG, **voided),
        fact("execution.check_in_voided", LONG, fact_id=every[10]["id"]),
        fact("service_line.updated", SLA, project_tags=[]),
        fact("service_line.updated", SLA, project_tags=["ü", "x,y", "PROJ-26-000009"]),
        fact("resource.allocated", SLA, id="POD-1", type="pod", name=NAMES, status="allocated"),
        fact("resource.allocated", SLA, id="POD-1", type="pod", role="lead"),
        fact("resource.allocated", SLA, id="POD-2", type="pod", allocated_hours_per_week=12.5),
        fact("resource.released", SLA, id="POD-2"),
        fact("execution.checked_in", INTEL, actortype_="user", actorid_="USR-26-000001"),
        fact("execution.checked_in", INTEL, hours=1, actortype_="agent", actorid_="AGT-ü"),
        fact("execution.checked_in", INTEL, hours=2, actortype_="agent", actorid_="cron"),
    )
    signals = ("hours_on_target", "sla_compliance", "delivery_velocity", "capacity_utilisation",
               "incident_frequency", "agent_error_rate", "outcome_progress")  # fmt: skip
    values = (0.982, "high", True, None, 12, [1, {"a": None}], {"of": 3})
    for at, (signal, value) in enumerate(zip(signals, values, strict=True)):
        statuses = ("green", "amber", "red")
        told = {"signal": signal, "status": statuses[at % 3], "value": value}
        again = told | {"evidence": {"tickets": [1, TEXT], "at": at}}
        teller.report(
            fact("health.signal_reported", INTEL, **told, time_=ago(days=9 - at)),
            fact("health.signal_reported", INTEL, **again, time_=ago(days=8 - at)),
        )
        turned = told | {"status": statuses[(at + 1) % 3]}
        teller.report(fact("health.signal_reported", INFRA, **told))
        teller.report(fact("health.signal_reported", INFRA, **turned))
    teller.report(fact("execution.checked_in", OTHERS, hours=3), role="other")
    teller.report_alone(fact("execution.checked_in", SLA, hours=1, note=TEXT))
    teller.report_alone(fact("execution.checked_in", SLA, source_=f"/{NAMES}"), binary=True)
    teller.load(
        fact("execution.checked_in", SLA, hours=4, source_="/file", time_=ago(days=11)),
        fact("execution.checked_in", OTHERS, hours=5, source_="/file"),
    )
    (first,) = teller.batch(every[0])
    if first["outcome"] != "duplicate":
        raise UntoldError(f"A repeated fact was answered {first}")


def stand_still(teller: Teller) -> None:
    """Pause lines from both sides, block lines by every cause, and lift some of the holds."""
    fact, ago = teller.fact, teller.ago
    reason = {"reason": TEXT}
    teller.report(
        fact("service_line.paused", INFRA, **reason, time_=ago(days=20)),
        fact("service_line.resumed", INFRA, time_=ago(days=18, hours=3)),
        fact("service_line.paused", INFRA, time_=ago(days=2)),
    )
    causes = ("approval_gap", "capacity_issue", "policy_violation", "delivery_blocker")
    for at, cause in enumerate(causes):
        teller.report(
            fact("execution.blocked", LONG, blocker_id=f"BLK-{at}", cause=cause, **reason,
                 time_=ago(days=6, hours=-at)),
            fact("execution.unblocked", LONG, blocker_id=f"BLK-{at}", time_=ago(days=5)),
            fact("execution.blocked", (SLA, INTEL, CYCLE, BARE)[at], blocker_id="ü/1", cause=cause),
        )  # fmt: skip
    teller.report(
        fact("execution.unblocked", CYCLE, blocker_id="ü/1", reason="Signed"),
        fact("execution.blocked", BARE, blocker_id="second", cause="approval_gap"),
    )
    pause, resume = f"/v1/execution/{SLA}/pause", f"/v1/execution/{SLA}/resume"
    key = {"idempotency-key": '"pause-1"'}
    first = teller.command("POST", pause, {"reason": "Stakeholder review"}, **key)
    if teller.command("POST", pause, {"reason": "Stakeholder review"}, **key) != first:
        raise UntoldError("A replayed pause was answered otherwise")
    teller.command("POST", resume, {"reason": "Review done"})
    teller.command("POST", f"/v1/execution/{INTEL}/pause", {"reason": "Both"}, role="admin")
    teller.command("POST", f"/v1/execution/{CYCLE}/pause", {"reason": "Ours"}, role="workspace")
    teller.command("POST", f"/v1/execution/{CYCLE}/resume", role="workspace")
    teller.report(fact("service_line.paused", INTEL, reason="Both sides"))


def be_idle(teller: Teller) -> None:
    """Wait until two agents' lines are idle; then wake one of them."""

    def is_idle(line: str) -> bool:
        found: bool = teller.get(f"/v1/execution/{line}")["data"]["state"] == "idle"
        return found

    teller.wait(lambda: is_idle(QUIET) and is_idle(WOKEN), "two idle lines")
    teller.report(teller.fact("execution.checked_in", WOKEN, hours=0.5))


def have_runs(teller: Teller) -> None:
    """Report runs of every status; their ids come from the reporters or from the ledger."""
    fact, ago = teller.fact, teller.ago
    triggers = ("api", "user", "agent", "schedule", "system")
    called = [{"type": kind, "actor_id": f"{kind}-ü"} for kind in triggers]
    for at in range(8):
        run = f"RUN-26-8000{at:02d}"
        day = {"time_": ago(days=30 - 3 * at)}
        later = {"time_": ago(days=30 - 3 * at, minutes=-(at + 1))}
        begun = {"service_line_id": CYCLE, "input": {"prompt": TEXT, "n": [at, None, 1.5]}}
        teller.report(
            fact("run.requested", run, **begun, triggered_by=called[at % 5], **day),
            fact("run.started", run, **later),
        )
        if at % 4 == 0:
            teller.report(fact("run.completed", run, output={"text": TEXT}, tokens_used=1840 + at))
        elif at % 4 == 1:
            error = {"code": "timeout", "message": TEXT}
            teller.report(fact("run.failed", run, error=error, output=[1], duration_ms=7, **later))
        elif at % 4 == 2:
            teller.report(fact("run.cancelled", run, reason="No longer needed"))
    agents = {"service_line_id": AGENT, "triggered_by": called[1]}
    started, failed, asked, open_ = teller.report(
        fact("agent.run.started", None, **agents, input="text"),
        fact("agent.run.started", None, **agents),
        fact("run.requested", None, **agents, input={"secret": TEXT}),
        fact("run.started", None, service_line_id=AGENT),
    )
    del open_
    teller.report(
        fact("agent.run.completed", started["subject"], output={"ok": True}, tokens_used=0),
        fact("agent.run.failed", failed["subject"], error={"message": "no"}, tokens_used=12),
        fact("run.cancelled", asked["subject"]),
        fact("run.requested", "RUN-26-810001", service_line_id=AGENT),
    )
    begun = {"service_line_id": OTHERS, "input": {"text": NAMES}}
    teller.report(fact("run.started", "RUN-26-820001", **begun), role="other")
    ended = {"output": TEXT, "tokens_used": 5}
    teller.report(fact("run.completed", "RUN-26-820001", **ended), role="other")


def be_named(teller: Teller) -> None:
    """Name a workspace and a project; lend a run that its reporter names."""
    fact = teller.fact
    teller.report(
        fact("directory.named", FIRST, name=NAMES),
        fact("directory.named", "PROJ-26-000001", name="Payments ü"),
        fact("directory.named", "PROJ-26-000001", name=NAMES),
        fact("service_line.updated", SLA, name=NAMES),
    )
    (lent,) = teller.report(
        fact("run.started", None, service_line_id=AGENT, external_id="nightly", lease_seconds=3600)
    )
    teller.command("POST", f"/v1/runs/{lent['subject']}/heartbeat", status=204)


def keep_keys(teller: Teller) -> None:
    """Create a key over HTTP, then change, rotate and revoke it."""
    new = {"name": NAMES, "organization_id": ORGANIZATION, "permissions": ["read"]}
    made = teller.command("POST", "/v1/keys", new, role="admin", status=201)
    path = f"/v1/keys/{made['data']['id']}"
    teller.command("PATCH", path, {"name": "Payments ü"}, role="admin")
    teller.command("POST", f"{path}/rotate", {"grace_seconds": 60}, role="admin")
    teller.command("DELETE", path, role="admin", status=204)


def close(teller: Teller) -> None:
    """Close a line with open runs; report the end of two of them afterwards."""
    fact = teller.fact
    runs = [f"RUN-26-83000{at}" for at in range(4)]
    begun = {"service_line_id": CLOSING, "input": {"text": "late"}}
    teller.report(*(fact("run.started", run, **begun) for run in runs[:3]))
    teller.report(fact("run.requested", runs[3], **begun))
    teller.report(fact("execution.blocked", CLOSING, blocker_id="open", cause="approval_gap"))
    teller.report(fact("execution.unblocked", CLOSING, blocker_id="open"))
    before = {"time_": teller.instant()}
    teller.report(fact("service_line.closed", CLOSING, reason="Contract ended"))
    teller.report(
        fact("run.completed", runs[0], output={"late": TEXT}, tokens_used=3, **before),
        fact("run.failed", runs[1], error={"code": "late", "message": TEXT}, **before),
        fact("execution.checked_in", CLOSING, hours=1, time_=teller.ago(days=1)),
    )
    teller.report(fact("service_line.closed", LATER), role="other")


def erase(teller: Teller) -> None:
    """Erase payloads, also of an end that was reported late; report an end after an erasure."""
    at = teller.get("/v1/runs/RUN-26-830002")["data"]["started_at"]
    for run in ("RUN-26-800000", "RUN-26-800001", "RUN-26-830000", "RUN-26-830002"):
        teller.command("POST", f"/v1/runs/{run}/erase", {"reason": "Asked for: ü"})
    teller.command("POST", "/v1/runs/RUN-26-800000/erase", {"reason": "Again"})
    teller.report(teller.fact("run.completed", "RUN-26-830002", output={"gone": TEXT}, time_=at))


def be_refused(teller: Teller) -> None:
    """Send facts and commands for every kind of refusal that is recorded."""
    fact = teller.fact
    known = fact("execution.checked_in", SLA, hours=1)
    teller.report(known)
    tenant = {"organization_id": ORGANIZATION, "workspace_id": FIRST}
    kinds = {"product_line": "ods", "execution_model": "capacity"}
    outcomes = teller.batch(
        known | {"data": {"hours": 2}},
        fact("execution.checked_in", "LIN-26-999999"),
        fact("execution.checked_in", "none"),
        fact("execution.checked_in", LONG, hours=-1),
        fact("execution.checked_in", OTHERS),
        fact("service_line.activated", LONG, **tenant, **kinds),
        fact("service_line.activated", "LIN-26-000099", **tenant, **kinds, unknown=1),
        fact("service_line.resumed", LONG),
        fact("execution.checked_in", CLOSING),
        fact("run.started", None, service_line_id=LONG),
        fact("run.started", None, service_line_id=INTEL),
        fact("run.completed", "RUN-26-800001"),
        fact("run.started", "RUN-26-820001", service_line_id=CYCLE),
        fact("no.such_type", LONG),
        fact("x" * 30, None),
    )
    if {outcome["outcome"] for outcome in outcomes} != {"refused"}:
        raise UntoldError(f"What must be refused was not: {outcomes}")
    one = fact("execution.checked_in", CYCLE)
    teller.command("POST", "/v1/facts", one, role="revoked", status=403)
    pause = f"/v1/execution/{LONG}/pause"
    teller.command("POST", pause, {"reason": "no"}, role="writer", status=403)
    teller.command("POST", pause, {"reason": ""}, status=422)
    teller.command("POST", pause, {"reason": "not seen"}, role="workspace", status=404)
    teller.command("POST", f"/v1/execution/{INTEL}/pause", {"reason": "twice"}, status=409)
    teller.command("POST", f"/v1/execution/{LONG}/resume", {}, status=409)
    teller.command("POST", "/v1/execution/LIN-26-999999/resume", {}, status=404)
    teller.command("POST", "/v1/runs/RUN-26-810001/erase", {"reason": "open"}, status=409)
    teller.command("POST", "/v1/runs/RUN-26-999999/erase", {"reason": "none"}, status=404)
    reused = {"idempotency-key": "pause-1"}
    pause = f"/v1/execution/{SLA}/pause"
    teller.command("POST", pause, {"reason": "Another"}, status=422, **reused)


def flood(teller: Teller) -> None:
    """Cause more refusals of one credential than are recorded singly."""
    unknown = [teller.fact("run.completed", "RUN-26-999999") for _ in range(MOST_REFUSALS + 7)]
    teller.batch(*unknown, role="flooder")
    omitted = f"/v1/audit-logs?organization_id={ORGANIZATION}&action=write.omitted"
    teller.wait(lambda: teller.get(omitted)["data"], "the refusals that were omitted")


def require_all(teller: Teller, version: Version) -> None:
    """Raise UntoldError if an event, published type, fact, command or refusal is missing."""
    document = teller.get("/openapi.json")
    with psycopg.connect(teller.product.database_url) as connection:
        written = {t for (t,) in connection.execute("SELECT topic FROM ledger.ledger_events")}
    told = {event["type"] for event in every_event(teller)}
    codes = {code for _, code in teller.refused}
    needed = {"not_found", "invalid_request", "invalid_state", "fact_conflict"}
    needed |= {"runs_not_supported", "forbidden", "idempotency_key_reused"}
    missing = {
        "events": version.topics - written,
        "published types": consts(document, "Event") - told,
        "facts": consts(document, "Fact") - teller.reported,
        "commands": teller.uncalled(document),
        "refusals": needed - codes,
    }
    lacking = [f"{what}: {', '.join(sorted(names))}" for what, names in missing.items() if names]
    if lacking or not version.topics:
        raise UntoldError(f"The tale lacks {'; '.join(lacking) or 'every event'}")


def every_event(teller: Teller) -> list[dict[str, str]]:
    """The events of the whole feed."""
    events: list[dict[str, str]] = []
    path = "/v1/events?limit=100"
    while True:
        page = teller.get(path, "admin")
        events += page["data"]
        if not page["meta"]["has_more"]:
            return events
        path = f"/v1/events?limit=100&cursor={page['meta']['cursor']}"
