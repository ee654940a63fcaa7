"""A watch of open blockers."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from ledger.engine.values.values import CAUSES, OMITTED, Cause
from ledger.features.watches.kinds import base, wording


class BlockerOpen(base.Condition, frozen=True, tag="blocker_open"):
    """A blocker is open."""

    causes: Annotated[
        tuple[Cause, ...] | None,
        Meta(extra_json_schema={OMITTED: True}),
        base.Blank(
            "Blocker",
            [],
            {"": "any blocker"}
            | {cause: f"a blocker by {cause.replace('_', ' ')}" for cause in CAUSES},
        ),
        base.Checks(
            base.as_set,
            max_length=len(CAUSES),
            description="Blockers of these causes. An empty array is like none: of any cause.",
        ),
    ] = None
    """None: of any cause."""

    keeps = True
    choice = "A blocker is open"
    sentence = "{causes} of {lines} has been open for {time}"
    at_once = "{causes} of {lines} is open"
    seconds = base.DAY
    may_hold = "l.causes <> '{}'"
    earliest = "SELECT line_id, blocked_since + {least} FROM page WHERE blocked_since IS NOT NULL"
    past = base.Past(
        """i.open_blockers <> COALESCE((
              SELECT b.open_blockers FROM ledger.execution_interval AS b
              WHERE b.line_key = i.line_key AND b.opened < i.opened
              ORDER BY b.opened DESC LIMIT 1), 0)""",
        "b.open_blockers = 0",
        "true",
    )

    def episodes(self, current: base.LineNow) -> base.Episodes:
        return [
            base.begun("blocker", blocker.id, blocker.since, blocker.position)
            for blocker in current.execution.blockers.values()
            if self.causes is None or blocker.cause in self.causes
        ]

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        by = wording.of_blocker(current.execution, episode.subject.id, " by ")
        return f"{current.name} {wording.been('blocked', for_seconds)}{by}"

    def transitions(self, changes: base.Changes, since: datetime | None) -> base.Transitions:
        return base.of_blockers(changes, self.causes)
