"""The actions of the audit log as people call them, grouped for a picker."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ledger.engine.values.refusals import UNKNOWN_ACTION
from ledger.features.feed.audited import OMITTED_ACTION, actions_of
from ledger.features.runs.model.reads import READ_ACTION


class Choice(NamedTuple):
    """A choice of the picker."""

    label: str
    action: str


GROUPS: Sequence[tuple[str, Sequence[Choice]]] = (
    (
        "Lines",
        (
            Choice("Activated", "execution.started"),
            Choice("Changed", "execution.updated"),
            Choice("Paused", "execution.paused"),
            Choice("Resumed", "execution.resumed"),
            Choice("Closed", "execution.closed"),
        ),
    ),
    (
        "Blockers",
        (
            Choice("Blocked", "execution.blocked"),
            Choice("Unblocked", "execution.unblocked"),
        ),
    ),
    (
        "Check-ins",
        (
            Choice("Checked in", "execution.checked_in"),
            Choice("Check-in voided", "execution.check_in_voided"),
        ),
    ),
    (
        "Resources and health",
        (
            Choice("Resource allocated", "resource.allocated"),
            Choice("Resource released", "resource.released"),
            Choice("Health reported", "health.signal_reported"),
        ),
    ),
    (
        "Runs",
        (
            Choice("Run requested", "run.requested"),
            Choice("Run started", "run.started"),
            Choice("Run completed", "run.completed"),
            Choice("Run failed", "run.failed"),
            Choice("Run cancelled", "run.cancelled"),
            Choice("Tokens of a run corrected", "run.usage_corrected"),
            Choice("Run erased", "run.erased"),
            Choice("Read a run’s data", READ_ACTION),
        ),
    ),
    ("Names", (Choice("Workspace or project named", "directory.named"),)),
    (
        "Keys",
        (
            Choice("Key created", "key.create"),
            Choice("Key changed", "key.update"),
            Choice("Key's secret rotated", "key.rotate"),
            Choice("Key revoked", "key.revoke"),
        ),
    ),
    (
        "Sessions",
        (
            Choice("Signed in", "session.begin"),
            Choice("Session ended", "session.end"),
            Choice("Sign-in without a grant", "session.refuse"),
        ),
    ),
    (
        "Webhooks",
        (
            Choice("Endpoint added", "webhook.create"),
            Choice("Endpoint changed", "webhook.update"),
            Choice("Endpoint disabled by rule", "webhook.disable"),
            Choice("Endpoint deleted", "webhook.delete"),
            Choice("Secret rotated", "webhook.rotate_secret"),
            Choice("Test sent", "webhook.test"),
            Choice("Undelivered events sent again", "webhook.recover"),
            Choice("One event sent again", "webhook.resend"),
        ),
    ),
    (
        "Statements",
        (
            Choice("Statement issued", "statement.issue"),
            Choice("Statement withdrawn", "statement.withdraw"),
        ),
    ),
    (
        "Watches and alerts",
        (
            Choice("Watch set up", "watch.create"),
            Choice("Watch changed", "watch.update"),
            Choice("Watch deleted", "watch.delete"),
            Choice("Alert acknowledged", "alert.acknowledge"),
        ),
    ),
    (
        "Refusals only",
        (
            Choice("Fact without a readable type", UNKNOWN_ACTION),
            Choice("Refused writes, counted", OMITTED_ACTION),
        ),
    ),
)
"""Each action of the audit log has one of these choices."""

_LABELS: Mapping[str, str] = {
    action: choice.label
    for _, choices in GROUPS
    for choice in choices
    for action in actions_of(choice.action)
}
"""Action, or event type → the label of the choice that finds it."""


def label_of(action: str) -> str:
    """The label of an action; the action itself if it is unknown, as in some refused facts."""
    return _LABELS.get(action, action)


def labels_of(words: str) -> str:
    """The labels of the filter's value, in which a comma means or."""
    return " or ".join(dict.fromkeys(map(label_of, words.split(","))))
