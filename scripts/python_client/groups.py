"""The names of the clients' methods for routes and facts, in groups.

A row names a route by its operation in the OpenAPI document, and a fact by its type. The methods in
``_async/routes.py`` are generated from the rows. Methods of another kind are in
``_async/groups.py``.
"""

from typing import NamedTuple


class Group(NamedTuple):
    """A group of routes about one kind of thing."""

    name: str
    """The end of the class's name."""
    about: str
    methods: dict[str, str]
    """By the name of a method, its operation or its type of fact."""


GROUPS = (
    Group(
        "LineRoutes",
        "Service lines: reads, the operator's commands, and facts by verb.",
        {
            "list": "list_executions",
            "get": "show_execution",
            "summary": "summarize_executions",
            "export": "export_executions",
            "history": "show_history",
            "timeline": "show_timeline",
            "usage": "show_usage",
            "runs": "list_execution_runs",
            "pause": "pause_execution",
            "resume": "resume_execution",
            "pause_many": "pause_executions",
            "resume_many": "resume_executions",
            "activate": "service_line.activated",
            "update": "service_line.updated",
            "hold": "service_line.paused",
            "release_hold": "service_line.resumed",
            "close": "service_line.closed",
            "check_in": "execution.checked_in",
            "void_check_in": "execution.check_in_voided",
            "block": "execution.blocked",
            "unblock": "execution.unblocked",
            "allocate": "resource.allocated",
            "release": "resource.released",
            "signal": "health.signal_reported",
        },
    ),
    Group(
        "Runs",
        "Runs: reads, commands, and facts by verb; ``Ledger.run`` reports a function's own runs.",
        {
            "list": "list_all_runs",
            "get": "show_run",
            "export": "export_runs",
            "erase": "erase_run",
            "heartbeat": "send_heartbeat",
            "request": "run.requested",
            "start": "run.started",
            "complete": "run.completed",
            "fail": "run.failed",
            "cancel": "run.cancelled",
            "correct_usage": "run.usage_corrected",
        },
    ),
    Group(
        "Traces",
        "Spans of OpenTelemetry in OTLP's JSON; exporters send them without this client.",
        {"report": "report_traces"},
    ),
    Group(
        "SumRoutes",
        "Hours, runs, tokens and times across lines.",
        {"page": "show_usage_of_lines", "export": "export_usage_of_lines"},
    ),
    Group(
        "CompareRoutes",
        "Two instants compared.",
        {"page": "show_comparison", "export": "export_comparison"},
    ),
    Group(
        "Statements",
        "Statements: sealed sums of a period. ``verify.statement`` checks a bundle offline.",
        {
            "list": "list_statements",
            "get": "show_statement",
            "issue": "issue_statement",
            "withdraw": "withdraw_statement",
            "changes": "show_statement_changes",
            "bundle": "show_statement_bundle",
            "export": "export_statement",
        },
    ),
    Group(
        "Watches",
        "Watches: conditions that open alerts.",
        {
            "list": "list_watches",
            "get": "show_watch",
            "create": "create_watch",
            "update": "update_watch",
            "delete": "delete_watch",
            "preview": "preview_watch",
        },
    ),
    Group(
        "Alerts",
        "Alerts that watches opened.",
        {
            "list": "list_alerts",
            "get": "show_alert",
            "acknowledge": "acknowledge_alert",
            "acknowledge_many": "acknowledge_alerts",
            "export": "export_alerts",
        },
    ),
    Group(
        "EventRoutes",
        "Published events, in the order of the log.",
        {
            "list": "list_events",
            "get": "show_event",
            "export": "export_events",
            "types": "list_event_types",
            "schema": "show_event_type",
        },
    ),
    Group(
        "Webhooks",
        "Endpoints that events are sent to. ``verify.webhook`` checks a delivery.",
        {
            "list": "list_webhooks",
            "get": "show_webhook",
            "create": "create_webhook",
            "update": "update_webhook",
            "delete": "delete_webhook",
            "rotate_secret": "rotate_webhook_secret",
            "recover": "recover_webhook",
            "test": "send_webhook_test",
            "deliveries": "list_deliveries",
            "resend": "send_delivery_again",
        },
    ),
    Group(
        "Audit",
        "The audit log: every write, every refused write, and reads of runs' data.",
        {"list": "list_audit_entries", "export": "export_audit_log"},
    ),
    Group(
        "Keys",
        "API keys within the credential's own permissions and tenant.",
        {
            "list": "list_api_keys",
            "get": "show_api_key",
            "create": "create_api_key",
            "update": "update_api_key",
            "rotate": "rotate_api_key",
            "revoke": "revoke_api_key",
        },
    ),
    Group(
        "Sessions",
        "Sessions of people at the pages, within the credential's own permissions and tenant.",
        {"list": "list_sessions", "end": "end_session"},
    ),
    Group(
        "Directory",
        "Names of workspaces, projects and resources; organizations; sources.",
        {
            "list": "list_directory",
            "name": "directory.named",
            "organizations": "list_organizations",
            "sources": "list_sources",
            "search": "search_names",
        },
    ),
    Group(
        "Proofs",
        "The sealed log. ``execution_ledger.verify`` checks offline what these routes return.",
        {
            "checkpoint": "show_checkpoint",
            "key": "show_key",
            "entry": "show_entry",
            "get": "show_proof",
            "inclusion": "prove_inclusion",
            "consistency": "prove_consistency",
        },
    ),
    Group(
        "Service",
        "The service itself, and the credential. Only the credential needs a token.",
        {
            "credential": "show_credential",
            "health": "check_health",
            "readiness": "check_readiness",
            "metrics": "show_metrics",
        },
    ),
)
