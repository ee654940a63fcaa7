"""The commands that record facts: import, demo. Results go to standard output."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from rich.console import Console
from rich.progress import Progress

from ledger.app.address import stored_address
from ledger.app.cli.input import opened
from ledger.app.cli.keys import make_key
from ledger.app.cli.line_parser import Format, ParsedLine, in_order, parsing
from ledger.app.composition.database import prepare_reading
from ledger.app.composition.writing import utc_now, writing
from ledger.app.demo import PRIMARY_ORGANIZATION, story
from ledger.app.demo.cast import KEYS, LEAD, closing_of, people_of
from ledger.app.demo.telling import Act, tell
from ledger.app.processes import calm_collector
from ledger.app.settings import Settings
from ledger.engine.reads.positions import ViewFollower
from ledger.engine.values import errors
from ledger.engine.values.places import full_detail
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import escaped, format_instant, parse_instant
from ledger.engine.writer.command import Command
from ledger.engine.writer.fair_queue import Outcomes
from ledger.engine.writer.periodic import sweepers_paused
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.envelope import Fact, Rejected
from ledger.features.facts.report import command_of
from ledger.features.keys import commands as keys
from ledger.features.keys.model import GRACE, SINGLE_PERMISSIONS
from ledger.features.keys.tokens import create_token

_IN_FLIGHT = 3
"""Chunks submitted to the writer before waiting for the oldest."""

RETRY_SECONDS = 1.0
"""The time after which rejected commands are submitted again."""

_PRINTED = 10
"""The facts that a dry run prints."""

_HELD = """
SELECT count(*) FILTER (WHERE originator_id ~ '^(LIN|RUN)-'), max(recorded_at)
FROM ledger.ledger_events
"""


def try_import(file: str, form: Format[Any]) -> int:
    """Print a file's first facts and every line that is not valid; return 1 if there are any."""
    counts: Counter[str] = Counter()
    with parsing() as parser, opened(file) as (stream, size), _bar(size) as advance:
        for lines in filter(None, parser.parse(form, stream, advance)):
            for number, parsed in lines:
                fault = parsed.fault if isinstance(parsed, Fact) else parsed.error
                if fault is not None:
                    print(f"line {number}: {_refusal(fault, parsed, form)}")
                elif isinstance(parsed, Fact) and counts["valid"] < _PRINTED:
                    print(f"line {number}: {_rendered(parsed)}")
                counts["valid" if fault is None else "refused"] += 1
    print(
        f"{counts['valid']:,} valid, {counts['refused']:,} refused; nothing was recorded",
        file=sys.stderr,
    )
    return 1 if counts["refused"] else 0


def _rendered(fact: Fact) -> str:
    """A fact as JSON, with its time in UTC."""
    event = {
        "id": fact.id,
        "source": fact.source,
        "type": fact.type,
        "subject": fact.subject,
        "time": fact.time and format_instant(fact.time),
        "actortype": fact.actor and fact.actor.type,
        "actorid": fact.actor and fact.actor.id,
        "data": fact.sent,
    }
    return escaped(json.dumps({k: v for k, v in event.items() if v}, ensure_ascii=False))


def import_facts(settings: Settings, conninfo: str, file: str, form: Format[Any]) -> int:
    """Record every line of a file, and print the refused lines; return 1 if there are any.

    Raises Unavailable, after the counts are printed, if the database accepts no more or the clock
    is wrong.
    """
    calm_collector()
    counts = {"recorded": 0, "duplicate": 0, "refused": 0}
    lost_at, why = None, "The database accepts no more"
    with (
        parsing() as parser,
        opened(file) as (stream, size),
        writing(settings, conninfo) as writer,
        _following(conninfo, writer),
        _bar(size) as advance,
    ):
        for lines, outcomes in filter(None, _record(writer, parser.parse(form, stream, advance))):
            if _is_lost(outcomes):
                lost_at = lines[0][0]
                if isinstance(outcomes[0], errors.ClockSkew):
                    why = str(outcomes[0]).removesuffix(".")
                break
            for (number, parsed), outcome in zip(lines, outcomes, strict=True):
                counts[_kind(outcome)] += 1
                if not isinstance(outcome, Receipt):
                    print(f"line {number}: {_refusal(outcome, parsed, form)}")
    summary = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    print(summary, file=sys.stderr)
    if lost_at is not None:
        raise errors.Unavailable(
            f"{why}: facts from line {lost_at} on may be missing. Import the file again later."
        )
    return 1 if counts["refused"] else 0


def _is_lost(outcomes: Outcomes) -> bool:
    """True if the database recorded nothing of a chunk. (A single command can also fail alone.)"""
    return bool(outcomes) and all(
        isinstance(outcome, errors.Unavailable) and not isinstance(outcome, errors.NotCarriedOut)
        for outcome in outcomes
    )


@contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Recording facts", total=total)
        yield lambda amount: progress.update(task, advance=amount)


def _record(
    writer: Writer, chunks: Iterable[list[ParsedLine] | None]
) -> Iterator[tuple[list[ParsedLine], list[Outcome]] | None]:
    """Submit chunks of lines to the writer, a few ahead; yield each with its outcomes."""

    def submit(chunk: list[ParsedLine]) -> tuple[list[ParsedLine], Future[Outcomes]]:
        commands = [command_of(parsed, COMMAND_LINE) for _, parsed in chunk]
        return chunk, submit_patiently(writer, commands)

    submitted = (None if chunk is None else submit(chunk) for chunk in chunks)
    return in_order(submitted, _IN_FLIGHT)


def submit_patiently(writer: Writer, commands: Sequence[Command]) -> Future[Outcomes]:
    pause = threading.Event()
    while True:
        try:
            return writer.submit(commands)
        except errors.RateLimited:
            pause.wait(RETRY_SECONDS)


@contextmanager
def _following(conninfo: str, writer: Writer) -> Iterator[None]:
    """Tell the writer how far the views are: with others present, an import waits for them."""
    follower = ViewFollower(conninfo, writer.note_projected)
    follower.start()
    try:
        yield
    finally:
        follower.stop()


def _kind(outcome: Outcome) -> str:
    if isinstance(outcome, Receipt):
        return "duplicate" if outcome.duplicate else "recorded"
    return "refused"


def _refusal(error: errors.LedgerError, parsed: Fact | Rejected, form: Format[Any]) -> str:
    named = "" if parsed.id is None else f" ({parsed.id!a})"
    return f"{error.code}{named} {full_detail(error, form.locate)}"


def load_demo(settings: Settings, conninfo: str) -> int:
    """Tell the story to an empty ledger; print a token and the page's address, if it is served."""
    # Reads load packages that no other of these commands needs.
    from ledger.app.demo.closing import Closer
    from ledger.app.demo.people import SignIns
    from ledger.app.demo.watching import watch_acts

    code = 0
    # The demo's past is written to an empty ledger, whose service may have beaten for long.
    with sweepers_paused(conninfo), writing(settings, conninfo, heeds_beats=False) as writer:
        held, last = _held(conninfo)
        if held:
            print(f"The ledger already holds {held:,} events: the story is not told again.")
        else:
            now = utc_now()
            facts, closing = story(now), closing_of(now)
            first = next(facts)
            if last is not None and last > parse_instant(first["time"]):
                # Recorded instants never go back, so no event of the story is recorded earlier.
                print(
                    f"The log already has an event of {last:%Y-%m-%d}:"
                    " the story's past begins on that day."
                )
            with _bar(None) as advance:
                acts: list[Act] = [
                    Closer(conninfo, prepare_reading(settings, conninfo), closing),
                    *watch_acts(conninfo, PRIMARY_ORGANIZATION, LEAD, now),
                    SignIns(PRIMARY_ORGANIZATION, people_of(closing), now - timedelta(hours=4)),
                ]
                outcomes = tell(writer, chain([first], facts), advance, acts)
                counts = Counter(map(_kind, outcomes))
            recorded, refused = counts["recorded"] + counts["duplicate"], counts["refused"]
            print(f"Told the story: {recorded:,} facts recorded, {refused} refused.")
            if refused:
                print("ledger: The story is not whole: facts were refused.", file=sys.stderr)
                code = 1
            _make_keys(writer)
        _, token = make_key(
            writer,
            name="demo",
            organization_id=PRIMARY_ORGANIZATION,
            workspace_id=None,
            permissions=SINGLE_PERMISSIONS,
        )
    print(f"Token: {token}")
    address = stored_address(settings.data_dir)
    if address is None:
        print("Page:  start the service with `ledger serve`; it prints the page's address")
    else:
        print(f"Page:  {address}{settings.root_path}/")
    return code


def _make_keys(writer: Writer) -> None:
    """Create the story's keys. Nobody gets their secrets."""
    for key in KEYS:
        key_id, _ = make_key(
            writer,
            name=key.name,
            organization_id=PRIMARY_ORGANIZATION,
            workspace_id=key.workspace_id,
            permissions=key.permissions,
            expires_at=None if key.lives is None else utc_now() + key.lives,
        )
        if key.ending == "rotated":
            token = create_token()
            writer.execute(keys.RotateApiKey(key_id, COMMAND_LINE, token=token, grace=GRACE))
        elif key.ending == "revoked":
            writer.execute(keys.RevokeApiKey(key_id, COMMAND_LINE))


def _held(conninfo: str) -> tuple[int, datetime | None]:
    """The number of events of lines and runs, and when the last event of any kind was recorded.

    A ledger that has only keys, endpoints and refusals counts as empty.
    """
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        row = connection.execute(_HELD).fetchone()
    return row or (0, None)
