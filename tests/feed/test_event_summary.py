"""The page's line about an event: every payload field is in it, or listed here as left out."""

from ledger.engine.page.showing import _SAYS
from ledger.features.feed.published import TYPES

MARKED = {"state_before", "state_after", "cause", "signal", "status"}
"""Fields shown by marks of their own (`event_says.html`)."""

UNSAID = {
    "execution_id", "resources", "started_at", "fact_id", "checked_in_at", "last_heard_at", "type",
    "value", "sequence", "organization_id", "workspace_id", "time_zone", "as_of", "position",
    "document_sha256", "alert_id", "watch_id", "subject", "condition", "for_seconds", "since",
    "due",
}  # fmt: skip
"""Fields shown on the event's own page only, which has the whole payload."""


def test_every_field_of_a_payload_is_shown_or_listed_as_left_out() -> None:
    fields = {name for payload in TYPES.values() for name in payload.__struct_encode_fields__}
    named = {name for name, _ in _SAYS}
    assert fields - named - MARKED - UNSAID == set(), "a line in engine/page/showing.py says it"
    assert (MARKED | UNSAID) - fields == set()
    assert UNSAID & named == set()
