"""Flow runs as the API of a Prefect server returns them: each is one run (contract, Files).

A line is an object of the API. Besides flow runs, the lines of task runs name the parent flow run
of a subflow, and the lines of deployments give the names by which a map has them. All of them are
read first, since Prefect sorts its responses by other things.
"""

import sqlite3
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, BinaryIO, Literal

import msgspec

from ledger.app.cli.files.map_file import FlowMap
from ledger.app.cli.line_parser import Chunk, chunks_of_lines, fact_of
from ledger.engine.values.errors import Invalid
from ledger.features.facts.envelope import MAX_ITEMS, Fact, Rejected
from ledger.features.facts.fact_types import NAME_OF_RUN

_ENDINGS = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "failed",
    "CANCELLED": "cancelled",
}
"""The facts of the states in which a flow run has ended."""

_WAITING = ("SCHEDULED", "PENDING")

_TABLES = (
    "CREATE TABLE task_runs (id TEXT PRIMARY KEY, flow_run_id TEXT) WITHOUT ROWID",
    "CREATE TABLE runs (created TEXT, number INTEGER, raw BLOB)",
)

_KEEP_TASK_RUN = "INSERT OR REPLACE INTO task_runs VALUES (?, ?)"

_KEEP_RUN = "INSERT INTO runs VALUES (?, ?, ?)"

_RUNS = "SELECT number, raw FROM runs ORDER BY created, number"

_FLOW_RUN_OF = "SELECT flow_run_id FROM task_runs WHERE id = ?"

_NO_LINE = (
    "The map has no line for the flow run's deployment, or the file does not give the deployment a"
    " name of its own, and no --line is given for it."
)

Item = tuple[bytes, str] | Rejected
"""A fact as JSON, with the line of its run."""


class _State(msgspec.Struct):
    type: Literal[
        "SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING",
        "COMPLETED", "FAILED", "CRASHED", "CANCELLED",
    ]  # fmt: skip
    timestamp: str


class _FlowRun(msgspec.Struct):
    id: str
    created: str
    state: _State
    start_time: str | None = None
    end_time: str | None = None
    deployment_id: str | None = None
    parent_task_run_id: str | None = None


class _Other(msgspec.Struct):
    """The fields that show an object's kind, and those of the kinds other than runs."""

    id: str
    task_key: str | None = None
    flow_run_id: str | None = None
    paused: bool | None = None
    name: str | None = None
    created: str | None = None

    @property
    def is_deployment(self) -> bool:
        return self.paused is not None


class FlowRuns:
    """The flow runs of a Prefect server, with the service lines that they belong to."""

    def __init__(self, by: FlowMap, line: str | None) -> None:
        self._by, self._line = by, line
        """The line of flow runs whose deployment the map does not have."""

    def locate(self, pointer: str) -> str:
        return pointer

    def read(self, item: Item) -> Fact | Rejected:
        """The fact, about a run of the line: an ending does not name the line in its data.

        The command line is an administrator, for whom a run's name alone determines no
        organization.
        """
        if isinstance(item, Rejected):
            return item
        raw, line = item
        fact = fact_of(raw)
        if isinstance(fact, Rejected) or fact.named_line is not None:
            return fact
        return msgspec.structs.replace(fact, named_line=line, streams=(*fact.streams, line))

    def chunks(self, stream: BinaryIO) -> Iterator[Chunk[Item]]:
        """The facts of all runs, the earliest run first: a parent comes before its subflows.

        The runs are in a temporary file meanwhile.
        """
        with closing(sqlite3.connect("")) as database:
            database.execute("PRAGMA journal_mode = OFF")
            for table in _TABLES:
                database.execute(table)
            names: dict[str, str] = {}
            size = 0
            for chunk in filter(None, chunks_of_lines(stream)):
                size += chunk[0]
                for number, raw in chunk[1]:
                    self._keep(number, raw.removeprefix(BOM_UTF8), names, database)
            borne = Counter(names.values())
            names = {each: name for each, name in names.items() if borne[name] == 1}
            facts: list[tuple[int, Item]] = []
            for number, raw in database.execute(_RUNS):
                facts += ((number, fact) for fact in self._facts(raw, names, database))
                if len(facts) >= MAX_ITEMS - 1:
                    yield 0, facts
                    facts = []
            yield size, facts

    def _keep(
        self, number: int, raw: bytes, names: dict[str, str], database: sqlite3.Connection
    ) -> None:
        """Store a flow run, the flow run of a task run, or the name of a deployment."""
        try:
            found = msgspec.json.decode(raw, type=_Other)
        except msgspec.DecodeError:
            found = _Other("")  # refused when the flow runs are read
        if found.task_key is not None:
            if found.flow_run_id is not None:
                database.execute(_KEEP_TASK_RUN, (found.id, found.flow_run_id))
        elif found.is_deployment:
            if found.name is not None:
                names[found.id] = found.name
        else:
            database.execute(_KEEP_RUN, (found.created or "", number, raw))

    def _facts(
        self, raw: bytes, names: Mapping[str, str], database: sqlite3.Connection
    ) -> Iterator[Item]:
        """The facts of a line: two for a run that has ended."""
        try:
            run = msgspec.json.decode(raw, type=_FlowRun)
        except msgspec.DecodeError as error:
            yield Rejected(Invalid(f"The line is no flow run: {error}."))
            return
        line = self._line_of(run, names)
        if line is None:
            yield Rejected(Invalid(_NO_LINE), run.id)
            return
        name, state = {NAME_OF_RUN: run.id}, run.state
        begun = name | {"service_line_id": line}
        if parent := database.execute(_FLOW_RUN_OF, (run.parent_task_run_id,)).fetchone():
            begun["parent_external_id"] = parent[0]
        # A run in a waiting state with a start is one that Prefect tries again. A run that was set
        # to completed by hand has begun at its end.
        may_wait = state.type in _WAITING or state.type in _ENDINGS
        if run.start_time is None and may_wait and state.type != "COMPLETED":
            yield self._fact(run, "requested", run.created, begun), line
        else:
            yield self._fact(run, "started", run.start_time or state.timestamp, begun), line
        if (ending := _ENDINGS.get(state.type)) is not None:
            crash = {"error": {"code": "crashed"}} if state.type == "CRASHED" else {}
            yield self._fact(run, ending, run.end_time or state.timestamp, name | crash), line

    def _line_of(self, run: _FlowRun, names: Mapping[str, str]) -> str | None:
        lines, deployment = self._by.deployments, run.deployment_id
        if not lines or deployment is None:
            return self._line
        if deployment in lines:
            return lines[deployment]
        # Without a unique name, the deployment may be one of the map: no guess is made.
        name = names.get(deployment)
        return None if name is None else lines.get(name, self._line)

    def _fact(self, run: _FlowRun, verb: str, time: str, data: Mapping[str, Any]) -> bytes:
        """A fact whose id and content stay the same in every later file with the run."""
        return msgspec.json.encode(
            {
                "specversion": "1.0",
                "source": self._by.source,
                "id": f"{run.id}-{verb}",
                "type": f"run.{verb}",
                "time": time,
                "data": data,
            }
        )
