"""The texts that people write in the story, and the numbers that its signals show."""

import re
from typing import NamedTuple


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Pairs of texts, each with ``=>`` between its two, which may be on two lines."""
    lines = re.sub(r"\s*=>\s*", "=>", text).strip().splitlines()
    return tuple((left.strip(), right) for left, _, right in (one.partition("=>") for one in lines))


NAMES = (
    "Priya Nair", "Jonas Weber", "Amara Okafor", "Mateo Silva", "Lena Fischer", "Kenji Sato",
    "Nadia Haddad", "Tom Becker", "Ingrid Dahl", "Ravi Menon", "Clara Moreau", "Emil Novak",
)  # fmt: skip
"""The operations lead, the clerk of finance, and others."""

CAUSES = ("approval_gap", "capacity_issue", "policy_violation", "delivery_blocker")

PAUSES = _pairs("""
    Stakeholder review period - resuming after the steering committee
        => Steering committee gave its go-ahead
    Client's code freeze for the quarterly release => Code freeze lifted
    Purchase order for the next quarter not signed yet => Purchase order signed
    Product owner on leave; backlog refinement waits => Product owner is back
    Paused at the client's request during their office move => Office move finished
    Budget under review by finance => Budget confirmed without cuts
    Waiting for the annual penetration test to finish
        => Penetration test finished, two minor findings
""")
"""The reasons for a pause, each with the reason for its end."""

BLOCKS = {
    "approval_gap": _pairs("""
        Waiting for the client's security sign-off => Security signed off
        Data processing agreement not countersigned => Agreement countersigned
        Change request for the payment gateway not approved => Change request approved by the board
    """),
    "capacity_issue": _pairs("""
        Lead engineer on sick leave, no replacement before Monday => Replacement engineer started
        Only 20 of 60 agreed hours staffed this week => Two engineers joined the pod
        Compute quota in eu-west-1 exhausted => Quota raised by the provider
    """),
    "policy_violation": _pairs("""
        Production data found in a test fixture; access withdrawn
            => Fixture cleaned, access restored
        Customer e-mail addresses in an outgoing message; held for review
            => Output filter tightened and reviewed
        Deployment outside the agreed maintenance window => Incident reviewed, window agreed anew
    """),
    "delivery_blocker": _pairs("""
        Staging is down: the load balancer's certificate has expired => Certificate renewed
        Client's VPN refuses every connection since this morning => VPN reachable again
        Upstream API changed its schema without notice => Adapter follows the new schema
    """),
}
"""The reasons for a blocker by cause, each with the reason for its end."""

CLOSINGS = {
    "talent": "Engagement ended as planned, knowledge handed over",
    "managed_services": "Service taken in-house by the client",
    "ods": "All deliverables accepted",
    "infrastructure": "Estate decommissioned after the migration",
    "intelligence": "Subscription ended",
    "agent_gateway": "Agent retired, replaced by its successor",
}

NOTES = {
    "talent": (
        "Retry logic of the payment webhooks, with tests",
        "Pairing on the checkout redesign",
        "Reviewed four pull requests, fixed the flaky login test",
        "Moved the order service to the new message broker",
        "Profiling of the search endpoint: p95 from 900 to 240 ms",
        "Sprint planning, then the address form",
        "Upgrade of the ORM, two deprecations left",
        "Accessibility fixes on the account pages",
        "Documented the onboarding of the partner API",
        "Investigated duplicate invoices, found the race",
    ),
    "managed_services": (
        "12 tickets closed, 3 carried over",
        "Release 4.2 rolled out without incident",
        "Response times within the agreement all day",
        "Triage of the week's backlog with the client",
        "Two urgent tickets, both answered within 20 minutes",
        "Quality gate passed, coverage at 84 %",
        "Runbook for the nightly export rewritten",
    ),
    "ods": (
        "First deliverable in review",
        "Prototype shown to the client, small changes asked for",
        "Acceptance criteria agreed",
        "Half of the planned scope done",
        "Integration tests green against the sandbox",
        "Second deliverable handed over",
    ),
    "infrastructure": (
        "Node pool patched, no restarts left",
        "Backups restored in a drill: 18 minutes",
        "Cost review: two idle databases removed",
        "Certificates renewed for all environments",
        "Autoscaling limits raised before the campaign",
        "Log retention moved to cold storage",
    ),
    "intelligence": (
        "Scorecards refreshed: cycle time down by 6 %",
        "Review time of pull requests up in two teams",
        "Change failure rate stable at 9 %",
        "Three repositories added to the scan",
        "Deployment frequency up for the third week",
        "Test coverage fell in the billing repository",
    ),
}

VOIDS = ("Booked on the wrong line", "Hours of another day", "Entered twice", "Wrong number typed")

LATE_NOTE = "Timesheet of the last Friday of the month, handed in late"

PEOPLE = (
    ("Amara Okafor", "senior_backend_engineer"),
    ("Lukas Brandt", "frontend_engineer"),
    ("Thandi Mokoena", "qa_engineer"),
    ("Mateus Carvalho", "senior_frontend_engineer"),
    ("Priya Raman", "data_engineer"),
    ("Jonas Lindqvist", "devops_engineer"),
    ("Sofia Marchetti", "product_designer"),
    ("Kwame Mensah", "backend_engineer"),
    ("Ines Duarte", "mobile_engineer"),
    ("Tomasz Zielinski", "site_reliability_engineer"),
    ("Naledi Dlamini", "scrum_master"),
    ("Hannah Weiss", "machine_learning_engineer"),
    ("Omar Haddad", "solutions_architect"),
)

UNITS = {
    "managed_services": (
        "pod",
        "POD",
        ("Payments pod", "Support pod", "Platform pod", "Mobile pod", "Data pod"),
    ),
    "ods": (
        "pod",
        "POD",
        ("Prototype squad", "Migration squad", "Integration squad", "Discovery squad"),
    ),
    "infrastructure": (
        "estate",
        "ESTATE",
        ("Production, eu-west-1", "Staging, eu-central-1", "Data platform", "Edge network"),
    ),
    "intelligence": (
        "capacity_pool",
        "CAP",
        ("Engineering metrics", "Delivery scorecards", "Repository scans"),
    ),
}
"""The resources of a line that is not staffed with single people: type, id prefix, names."""


class Meter(NamedTuple):
    """A signal's values: the range for each status, and the text of its evidence."""

    green: tuple[float, float]
    amber: tuple[float, float]
    red: tuple[float, float]
    decimals: int
    evidence: str


METERS = {
    "hours_on_target": Meter(
        (95, 103), (81, 90), (52, 70), 0, "{value} % of the committed hours over the last two weeks"
    ),
    "sla_compliance": Meter(
        (99, 100), (95, 98), (81, 91), 1, "{value} % of tickets answered in time this month"
    ),
    "delivery_velocity": Meter(
        (0.95, 1.2), (0.74, 0.88), (0.38, 0.6), 2, "Tasks done at {value} of the baseline rate"
    ),
    "capacity_utilisation": Meter(
        (70, 88), (91, 97), (101, 118), 0, "{value} % of the allocated capacity in use"
    ),
    "incident_frequency": Meter(
        (0, 1), (2, 4), (6, 11), 0, "{value} new in the incident queue in the last seven days"
    ),
    "agent_error_rate": Meter(
        (0.4, 3), (6, 11), (16, 28), 1, "{value} % of the last day's runs failed"
    ),
    "outcome_progress": Meter(
        (96, 108), (76, 88), (34, 55), 0, "{value} % of what was planned for this day of the cycle"
    ),
}

SIGNALS = {
    "capacity": ("hours_on_target", "delivery_velocity", "capacity_utilisation"),
    "ongoing_sla": ("sla_compliance", "delivery_velocity", "incident_frequency"),
    "timeboxed_outcome": ("outcome_progress", "delivery_velocity"),
    "infra_managed": ("incident_frequency", "capacity_utilisation"),
    "observability": ("delivery_velocity", "capacity_utilisation"),
    "agent_runtime": ("agent_error_rate", "capacity_utilisation"),
}
"""The signals that apply to a model, the most telling signal first."""


class Agent(NamedTuple):
    """One kind of agent: its name, typical duration, rate of failures, prompts and answers."""

    name: str
    role: str
    base_ms: int
    failing: float
    asks: tuple[tuple[str, str], ...]


AGENTS = (
    Agent("Project assistant", "project_assistant", 2_400, 0.04, _pairs("""
        Summarise open tasks for project {project}
            => {a} open tasks across {b} sprints. {c} are blocked.
        Draft the weekly status of {project} => Draft with {b} highlights and {c} risks.
        Which tasks of {project} miss an owner?
            => {c} tasks have no owner; the oldest waits {a} days.
    """)),
    Agent("Support triage", "support_triage", 1_300, 0.03, _pairs("""
        Classify ticket {task} => Category billing, priority {b}.
        Suggest an answer for ticket {task} => Answer drafted from {b} knowledge base articles.
    """)),
    Agent("Code reviewer", "code_reviewer", 14_000, 0.06, _pairs("""
        Review pull request {a}{b} of the checkout repository
            => {c} remarks, {b} files without tests.
        Explain the failing build {a}{c} => A snapshot test of the cart page is out of date.
    """)),
    Agent("Release notes writer", "release_notes_writer", 6_200, 0.05, _pairs("""
        Write release notes for {project} since last Monday => {a} changes in {b} groups.
    """)),
    Agent("Data steward", "data_steward", 9_000, 0.19, _pairs("""
        Find duplicate customers imported yesterday => {a} pairs found, {c} are certain.
        Check the nightly export against its schema => {c} columns drifted in {b} tables.
    """)),
    Agent("Incident scribe", "incident_scribe", 4_100, 0.05, _pairs("""
        Write the timeline of the incident in task {task}
            => Timeline with {a} entries, {c} open questions.
    """)),
    Agent("Invoice checker", "invoice_checker", 3_300, 0.07, _pairs("""
        Compare this week's hours of {project} with the order
            => {a} line items match, {c} need a look.
    """)),
    Agent("Backlog groomer", "backlog_groomer", 5_000, 0.05, _pairs("""
        Find duplicates in the backlog of {project}
            => {b} likely duplicates, {c} stale for over {a} weeks.
    """)),
)  # fmt: skip

ERRORS = (
    ("tool_timeout", "The issue tracker did not answer within 30 seconds"),
    ("rate_limited", "The model provider refused the call: too many requests"),
    ("policy_denied", "The policy forbids reading attachments of this project"),
    ("context_overflow", "The conversation exceeds the model's context window"),
    ("upstream_unavailable", "The code host answered 503 three times"),
)

MODELS = ("atlas-3-large", "atlas-3-small", "quill-2")

CORRECTIONS = (
    "The provider's bill has another number",
    "A call that was tried again had been counted twice",
    "The gateway's counter had missed the tools' calls",
)

CANCELLATIONS = (
    "No longer needed",
    "Superseded by a newer request",
    "Cancelled by the requester",
    "Wrong project chosen",
)

CYCLES = (
    ("Self-service password reset", ("reset flow", "e-mail templates", "audit trail")),
    ("Migrate the reporting database", ("schema migration", "backfill", "cut-over plan")),
    ("Prototype of the partner portal", ("clickable prototype", "user interviews")),
    ("Single sign-on for the back office", ("SAML login", "role mapping", "operator guide")),
    ("Faster product search", ("new index", "relevance report")),
    (
        "Integration with the courier's API",
        ("label printing", "tracking updates", "error handling"),
    ),
    ("Accessibility of the checkout", ("audit", "fixes of level A and AA")),
)
"""The goals of ODS cycles, and their deliverables."""
