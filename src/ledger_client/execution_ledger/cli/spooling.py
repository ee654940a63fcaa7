"""``elk spool``: shows and sends the facts that programs have left in a spool."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec

from execution_ledger._requests import Attempts, instant
from execution_ledger._sending import Result, Sender
from execution_ledger._spool import SpoolFile, Waiting, files_of, is_locked
from execution_ledger._wait import pause
from execution_ledger.cli.acting import summary
from execution_ledger.cli.asking import CONNECT_SECONDS
from execution_ledger.cli.grammar import REFUSED, command
from execution_ledger.cli.session import TIMEOUT_SECONDS, settings
from execution_ledger.cli.showing import Show, columns, say
from execution_ledger.errors import Problem
from execution_ledger.reporter import ATTEMPT_SECONDS

FILES = columns("FILE=file FACTS=facts OLDEST=oldest STATE=state")
REFUSALS = columns("FILE=file ID=id TYPE=type SUBJECT=subject CODE=code DETAIL=detail")


@command(
    "spool",
    ["elk spool /var/lib/jobs/spool", "elk spool /var/lib/jobs/spool --send"],
    [
        click.Argument(
            ["directory"], type=click.Path(exists=True, file_okay=False, path_type=Path)
        ),
        click.Option(["--send", "sends"], is_flag=True, help="Send what is left."),
    ],
)
def spool(show: Show, directory: Path, sends: bool) -> None:
    """Show the facts that programs have left in a spool, or send them.

    A file of a living program is in use, and is left alone. --send shows the refused facts. Exit
    code 1: a fact was refused. Without access, or without an answer, unsent facts stay.
    """
    if not sends:
        show.rows(map(_described, files_of(directory)), FILES)
        return
    now, counts, rows = settings(), Counter[str](), list[dict[str, Any]]()
    try:
        with httpx.Client(**now.options(None), timeout=ATTEMPT_SECONDS) as http:
            for path in files_of(directory):
                rows.extend(_refused(http, path, counts))
    finally:
        if rows or show.form != "table":
            show.rows(rows, REFUSALS, len(rows))
        say(summary(counts))
        if counts["in use"]:
            say(f"{counts['in use']} files are in use.")
    if counts["refused"] or counts["damaged"]:
        click.get_current_context().exit(REFUSED)


def _refused(http: httpx.Client, path: Path, counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Send the facts of a file, remove those with an outcome, and yield the refused ones."""
    if (file := _opened(path, counts)) is None:
        return
    sender = Sender()
    try:
        while batch := sender.batch(file):
            for fact, item, problem in _results(http, sender, batch, file):
                outcome = "refused" if problem is not None or item is None else item.outcome
                counts[outcome] += 1
                if problem is not None:
                    yield _row(path, fact, problem)
    except sqlite3.Error as error:
        say(f"elk: {path} cannot be read: {error}")
        counts["damaged"] += 1
    finally:
        file.close()


def _results(
    http: httpx.Client, sender: Sender, batch: list[Waiting], file: SpoolFile
) -> list[Result]:
    """Send a batch and return the outcomes; empty if another batch is due. Retries as usual."""
    connects, attempts = Attempts("POST", CONNECT_SECONDS), Attempts("POST", TIMEOUT_SECONDS)
    while True:
        try:
            results, held = sender.send(http, batch)
        except httpx.ConnectError as error:
            pause(connects.again(error))
            continue
        except (httpx.TransportError, Problem) as error:
            pause(attempts.again(error))
            continue
        file.remove([result.fact for result in results])
        if results or held is None:
            return results
        pause(attempts.again(held))


def _opened(path: Path, counts: Counter[str]) -> SpoolFile | None:
    """Open a file; None if it is in use or damaged."""
    try:
        return SpoolFile(path)
    except sqlite3.Error as error:
        if is_locked(error):
            counts["in use"] += 1
        else:
            say(f"elk: {path} cannot be read: {error}")
            counts["damaged"] += 1
        return None


def _row(path: Path, fact: Waiting, problem: Problem) -> dict[str, Any]:
    value = msgspec.json.decode(fact.text)
    wrong = (f"{fault.pointer or '/'}: {fault.detail}" for fault in problem.errors)
    row = {name: value.get(name) for name in ("id", "source", "type", "subject")}
    detail = "; ".join((problem.detail, *wrong))
    return {"file": path.name, **row, "code": problem.code, "detail": detail}


def _described(path: Path) -> dict[str, Any]:
    """A file as a row of the table."""
    row: dict[str, Any] = {"file": path.name, "facts": None, "oldest": None, "state": "left"}
    counts = Counter[str]()
    if (file := _opened(path, counts)) is None:
        return row | {"state": "in_use" if counts["in use"] else "left"}
    try:
        oldest = [_reported_at(fact, path) for fact in file.first(1)]
        return row | {"facts": file.count(), "oldest": next(iter(oldest), None)}
    except sqlite3.Error as error:
        say(f"elk: {path} cannot be read: {error}")
        return row
    finally:
        file.close()


def _reported_at(fact: Waiting, path: Path) -> str | None:
    """The time of a fact; if it has none, when its file was created."""
    at = msgspec.json.decode(fact.text).get("time")
    begun = path.name.partition("-")[0]
    if at is None and begun.isdecimal():
        at = instant(datetime.fromtimestamp(int(begun) // 10**9, UTC))
    return str(at) if at else None


COMMANDS = (spool,)
