"""The page of the log's integrity: the last checkpoint, and the results of verifications."""

import json
from collections.abc import Sequence
from datetime import datetime, time
from typing import Any, NamedTuple

from fastapi import APIRouter, Response

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Present, ReadRequest
from ledger.engine.page.pages import PageRoute, show
from ledger.engine.postgres.timing import LIVING_SECONDS
from ledger.engine.values.principal import EVERYONE
from ledger.features.proof.sealing.note import BadNote, parse
from ledger.features.proof.sealing.origins import FormerOrigin
from ledger.features.proof.tables import FINDINGS, NEW, OLD, SCHEMA, TABLES, Finding
from ledger.features.proof.verification.nightly import Nightly, next_night

router = APIRouter(prefix="/ui/integrity", include_in_schema=False, route_class=PageRoute)

MOST_UNSEALED = 1000
"""The most events that are counted after the checkpoint."""

# The latest published checkpoint, the instant of its last event, the key, why and when sealing has
# stopped, what it waits for, and how many events are not sealed yet.
_SEALED = """
SELECT c.note, ledger.recorded_at(c.position), s.vkey, s.stopped_at, s.error, s.waits_for,
    ledger.events_between(COALESCE(c.position, 0) + 1, NULL, %(most)s + 1)
FROM (SELECT) AS log LEFT JOIN ledger.signer AS s ON true LEFT JOIN LATERAL (
    SELECT position, note FROM ledger.checkpoint
    WHERE size <= s.shown_size ORDER BY size DESC LIMIT 1
) AS c ON true
"""

# The earlier origins, the latest first, and the nodes with their witnesses.
_FORMER = """
SELECT number, vkey, ended_at, ended_by, reason, last_note, kept_size
FROM ledger.former_origin ORDER BY number DESC
"""
_NODES = """
SELECT node_id, role, beaten_at, witness,
    beaten_at > clock_timestamp() - %(living)s * interval '1 s'
FROM ledger.node ORDER BY node_id
"""

_PARTS = {
    NEW: "New events, their leaves and checkpoints",
    TABLES: "Tables on which decisions rest",
    SCHEMA: "Functions, views, constraints and rights of the database",
    **{part: f"Older events, part {number} of {len(OLD)}" for number, part in enumerate(OLD, 1)},
}
"""The parts of a verification in words, in the order of the page."""


class SealedLog(NamedTuple):
    """How far the log is sealed."""

    note: str | None
    """The latest checkpoint; None if nothing is sealed yet."""
    last_recorded_at: datetime | None
    key: str | None
    """None until the first checkpoint."""
    stopped_at: datetime | None
    error: str | None
    waits_for: str | None
    behind: int
    """The number of events that are not sealed yet, at most ``MOST_UNSEALED`` + 1."""

    @property
    def lines(self) -> Sequence[str]:
        """The origin, the size and the root."""
        return (self.note or "").split("\n")[:3]


class NodeReport(NamedTuple):
    """A node's last report."""

    node_id: str
    role: str
    beaten_at: datetime
    note: str | None
    """The newest checkpoint that it has seen; None if it has no witness."""
    lives: bool

    @property
    def size(self) -> str | None:
        try:
            return None if self.note is None else str(parse(self.note).checkpoint.size)
        except BadNote:
            return None

    @property
    def origin(self) -> str:
        return (self.note or "").split("\n", 1)[0]


class VerifiedPart(NamedTuple):
    """A part of a verification, and its last finding."""

    name: str
    finding: Finding | None
    """None if the part was not compared yet."""
    due: datetime | None
    """When the part is compared next; None if never."""


@router.get("", openapi_extra=needs(None))
async def show_integrity(request: ReadRequest, query: Present) -> Response:
    """Show the facts about the sealed log to any visitor.

    Only administrators see keys of rows that differ, and why sealing has stopped: they may name
    another tenant's ids.
    """
    fetch = request.services.pool.fetch
    ((*sealed,),) = await fetch(EVERYONE, _SEALED, {"most": MOST_UNSEALED})
    former = [FormerOrigin(*row) for row in await fetch(EVERYONE, _FORMER, {})]
    nodes = [NodeReport(*row) for row in await fetch(EVERYONE, _NODES, {"living": LIVING_SECONDS})]
    findings = [Finding(*row) for row in await fetch(EVERYONE, FINDINGS, {})]
    parts = _parts(findings, request.services.of(Nightly).at, request.services.clock())
    return show(
        request.http,
        "integrity.html",
        sealed=SealedLog(*sealed),
        keys="\n".join([sealed[2] or "", *(origin.vkey for origin in former)]),
        former=former,
        nodes=nodes,
        most=MOST_UNSEALED,
        found=parts,
        missing=sum(part.finding is None for part in parts),
        next_due=min((p.due for p in parts if p.due and p.finding is None), default=None),
        verified_at=max((finding.ended_at for finding in findings), default=None),
        differences=sum(finding.differences for finding in findings),
    )


def _parts(findings: Sequence[Finding], at: time | None, now: datetime) -> list[VerifiedPart]:
    """All parts in the order of the page, also those that were not compared yet."""
    found = {one.part: one._replace(named=_named(one.named)) for one in findings}
    names = _PARTS | {part: part for part in found if part not in _PARTS}
    return [
        VerifiedPart(name, found.get(part), None if at is None else next_night(part, at, now))
        for part, name in names.items()
    ]


def _named(stored: Any) -> Sequence[dict[str, Any]]:
    named: Sequence[dict[str, Any]] = json.loads(stored) if isinstance(stored, str) else stored
    return named
