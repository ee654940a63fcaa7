"""A watch of runs that hang."""

from typing import Annotated, Literal, get_args

from ledger.features.watches.kinds import base, wording

_Status = Literal["pending", "running"]


class RunOpen(base.Condition, frozen=True, tag="run_open"):
    """A run is pending or running."""

    statuses: Annotated[
        tuple[_Status, ...],
        base.Blank(
            "Status",
            ["pending", "running"],
            base.choices("pending,running", "pending", "running"),
        ),
        base.Checks(
            base.each_once(get_args(_Status)),
            min_length=1,
            max_length=2,
            json_schema_extra={"uniqueItems": True},
        ),
    ]

    about = "open_runs"
    choice = "A run hangs"
    sentence = "a run of {lines} has been {statuses} for {time}"
    at_once = "a run of {lines} is {statuses}"
    seconds = base.HOUR
    starter = base.Starter("A run hangs", lines={"execution_model": ["agent_runtime"]})
    may_hold = base.HAS_RUN.format(statuses="'pending', 'running'")
    earliest = """
        SELECT p.line_id, COALESCE(r.started_at, r.requested_at) + {least} FROM page AS p
        JOIN ledger.open_run AS o USING (line_id) JOIN ledger.run AS r USING (run_id)"""
    # When the run was pending no more, if its request began the episode, or was no longer running.
    recorded = """
        SELECT opened, at FROM (
            SELECT opened, COALESCE(
                CASE WHEN started <> %(after)s THEN started_at END, stopped_at, ended_at) AS at
            FROM ledger.run WHERE run_id = %(subject)s
        ) AS run WHERE at IS NOT NULL"""

    def episodes(self, current: base.LineNow) -> base.Episodes:
        return [
            base.begun("run", run.run_id, run.since, run.position)
            for run in current.runs
            if run.status in self.statuses
        ]

    def text(self, for_seconds: int, episode: base.Episode, current: base.LineNow) -> str:
        run = next(run for run in current.runs if run.run_id == episode.subject.id)
        called = run.run_id if run.external_id is None else f"{run.run_id} ({run.external_id})"
        return f"Run {called} of {current.name} {wording.been(run.status, for_seconds)}"
