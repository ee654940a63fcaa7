"""Flow runs as the API of a Prefect server gives them: each is one run (contract, Command line).

A line is an object of the API. Beside flow runs, the lines of task runs say which flow run a
subflow is a part of, and the lines of deployments give the names that a map has for them. All of
them are read first, since Prefect sorts its answers by other things.
"""

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Literal

import msgspec

from ledger.cli.files.map_file import FlowMap
from ledger.cli.line_parser import Chunk, chunks_of_lines, fact_of
from ledger.domain.errors import Invalid
from ledger.intake.envelope import MAX_ITEMS, Fact, Rejected
from ledger.intake.fact_types import NAME_OF_RUN

_ENDINGS = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "failed",
    "CANCELLED": "cancelled",
}
"""The facts of the states in which a flow run has ended."""

_WAITING = ("SCHEDULED", "PENDING")

_TABLE = "CREATE TABLE task_runs (id TEXT PRIMARY KEY, flow_run_id TEXT) WITHOUT ROWID"

_INSERT = "INSERT OR REPLACE INTO task_runs VALUES (?, ?)"

_FLOW_RUN_OF = "SELECT flow_run_id FROM task_runs WHERE id = ?"


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
    """The fields by which an object shows its kind, and those that other kinds than runs give."""

    id: str
    task_key: str | None = None
    flow_run_id: str | None = None
    paused: bool | None = None
    name: str | None = None

    @property
    def is_deployment(self) -> bool:
        return self.paused is not None


class FlowRuns:
    """The flow runs of a Prefect server, with the lines about which they are."""

    def __init__(self, by: FlowMap, line: str | None) -> None:
        self._by, self._line = by, line
        """The line of flow runs whose deployment the map does not have."""

    def place(self, pointer: str) -> str:
        return pointer

    def read(self, item: Item) -> Fact | Rejected:
        """The fact, about a run of the line: an ending does not name the line in its data.

        The command line is an administrator, for whom a run's name alone says no organization.
        """
        if isinstance(item, Rejected):
            return item
        raw, line = item
        fact = fact_of(raw)
        if isinstance(fact, Rejected) or fact.named_line is not None:
            return fact
        return msgspec.structs.replace(fact, named_line=line, streams=(*fact.streams, line))

    def chunks(self, stream: BinaryIO) -> Iterator[Chunk[Item]]:
        with TemporaryFile() as copy, closing(sqlite3.connect("")) as database:
            if not stream.seekable():
                shutil.copyfileobj(stream, copy)
                copy.flush()
                stream = copy
            names = self._others(_again(stream), database)
            for size, items in _again(stream):
                facts = [
                    (number, fact)
                    for number, raw in items
                    for fact in self._facts(raw, names, database)
                ]
                for first in range(0, max(len(facts), 1), MAX_ITEMS):
                    yield size if first == 0 else 0, facts[first : first + MAX_ITEMS]

    def _others(
        self, chunks: Iterator[Chunk[bytes]], database: sqlite3.Connection
    ) -> Mapping[str, str]:
        """Keep the flow runs of task runs; return the names of deployments that no two bear."""
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(_TABLE)
        names: dict[str, str] = {}
        for _, items in chunks:
            for _, raw in items:
                try:
                    found = msgspec.json.decode(raw, type=_Other)
                except msgspec.DecodeError:
                    continue  # refused when the flow runs are read
                if found.task_key is not None and found.flow_run_id is not None:
                    database.execute(_INSERT, (found.id, found.flow_run_id))
                elif found.is_deployment and found.name is not None:
                    names[found.id] = found.name
        borne = Counter(names.values())
        return {each: name for each, name in names.items() if borne[name] == 1}

    def _facts(
        self, raw: bytes, names: Mapping[str, str], database: sqlite3.Connection
    ) -> Iterator[Item]:
        """The facts of a line: none of another object, two of a run that has ended."""
        try:
            other = msgspec.json.decode(raw, type=_Other)
            if other.task_key is not None or other.is_deployment:
                return
            run = msgspec.json.decode(raw, type=_FlowRun)
        except msgspec.DecodeError as error:
            yield Rejected(Invalid(f"The line is no flow run: {error}."))
            return
        line = self._line_of(run, names)
        if line is None:
            sentence = "The map has no line for the flow run's deployment, and no --line is given."
            yield Rejected(Invalid(sentence), run.id)
            return
        name, state = {NAME_OF_RUN: run.id}, run.state
        begun = name | {"service_line_id": line}
        if parent := database.execute(_FLOW_RUN_OF, (run.parent_task_run_id,)).fetchone():
            begun["parent_external_id"] = parent[0]
        # A state of waiting with a start is that of a run which Prefect tries again.
        if run.start_time is None and (state.type in _WAITING or state.type in _ENDINGS):
            yield self._fact(run, "requested", run.created, begun), line
        else:
            yield self._fact(run, "started", run.start_time or state.timestamp, begun), line
        if (ending := _ENDINGS.get(state.type)) is not None:
            crash = {"error": {"code": "crashed"}} if state.type == "CRASHED" else {}
            yield self._fact(run, ending, run.end_time or state.timestamp, name | crash), line

    def _line_of(self, run: _FlowRun, names: Mapping[str, str]) -> str | None:
        lines, deployment = self._by.deployments, run.deployment_id or ""
        return lines.get(deployment) or lines.get(names.get(deployment, "")) or self._line

    def _fact(self, run: _FlowRun, verb: str, time: str, data: Mapping[str, Any]) -> bytes:
        """A fact whose id and content stay the same in every later file that has the run."""
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


def _again(stream: BinaryIO) -> Iterator[Chunk[bytes]]:
    """The lines of a file from its beginning."""
    os.lseek(stream.fileno(), 0, os.SEEK_SET)
    return filter(None, chunks_of_lines(stream))
