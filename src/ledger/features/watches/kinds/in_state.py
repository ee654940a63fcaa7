"""A watch of the state of lines."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from ledger.features.lines.model.execution import STUCK
from ledger.features.watches.kinds import base, wording

WatchedState = Literal["running", "idle", "paused", "blocked"]

_STUCK = ["paused", "blocked"]


def _stuck_or_one(states: list[str]) -> list[str]:
    if len(states) > 1 and states != _STUCK:
        raise ValueError("must be one state, or paused and blocked")
    return states


class InState(base.Condition, frozen=True, tag="in_state"):
    """A line is in one of these states, without a break."""

    states: Annotated[
        tuple[WatchedState, ...],
        base.Blank(
            "State",
            ["blocked"],
            base.choices("blocked", "paused", "paused,blocked", "idle", "running"),
        ),
        base.Checks(
            base.each_once(get_args(WatchedState)),
            _stuck_or_one,
            min_length=1,
            max_length=2,
            description="One state, or `paused` and `blocked`.",
            json_schema_extra={
                "uniqueItems": True,
                "if": {"minItems": 2},
                "then": {"allOf": [{"contains": {"const": each}} for each in _STUCK]},
            },
        ),
    ]

    as_sent = "A line is in a state, or is paused or blocked, without a break."
    words = (("WatchedState", get_args(WatchedState)),)
    keeps = True
    choice = "A line is in a state"
    sentence = "{lines} has been {states} for {time}"
    at_once = "{lines} is {states}"
    seconds = 2 * base.HOUR
    starter = base.Starter("Blocked for two hours", "critical", 300)
    may_hold = "l.state = ANY(%(states)s)"
    earliest = """
        SELECT p.line_id, p.stretch_since + s.least AS due_at FROM page AS p
        JOIN unnest(%(states)s::text[], %(state_seconds)s::interval[]) AS s (state, least)
            USING (state)"""
    past = base.Past(
        "i.turned", "b.turned AND b.state <> ALL(%(states)s)", "state = ANY(%(states)s)"
    )

    @classmethod
    def parameters(cls, conditions: base.Conditions, now: datetime) -> dict[str, Any]:
        least = dict[str, int]()
        for condition, seconds in conditions:
            for state in condition.states:
                least[state] = min(seconds, least.get(state, seconds))
        seconds_of = [timedelta(seconds=seconds) for seconds in least.values()]
        return {"states": [*least], "state_seconds": seconds_of}

    def episodes(self, current: base.LineNow) -> base.Episodes:
        key = STUCK if len(self.states) > 1 else self.states[0]
        return base.of_line(current, current.execution.spans.get(key))

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        line = current.execution
        text = f"{current.name} {wording.been(line.state, for_seconds)}"
        if line.state == "blocked" and line.blockers:
            return text + wording.of_blocker(line, next(iter(line.blockers)), " by ")
        hold = next(iter(line.holds.values()), None) if line.state == "paused" else None
        return text if hold is None else text + wording.because(hold.reason)

    def transitions(self, changes: base.Changes, since: datetime | None) -> base.Transitions:
        holds, first = since is not None, None
        for index, change in enumerate(changes):
            # A state without length does not break an episode, and begins none.
            lasts = index + 1 == len(changes) or changes[index + 1].since > change.since
            is_in = change.state in self.states
            if is_in:
                first = first or change
            if lasts and is_in != holds:
                holds = is_in
                yield base.Transition(change.since, holds, change=first)
            if lasts and not is_in:
                first = None
