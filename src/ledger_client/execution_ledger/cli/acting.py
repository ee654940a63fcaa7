"""Commands that change something: pause, resume, acknowledge, and send facts from a file."""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any, NamedTuple

import click
import msgspec

from execution_ledger import _operations as routes
from execution_ledger._sending import BATCH_BYTES, BATCH_FACTS
from execution_ledger.cli.asking import Connection, parameters
from execution_ledger.cli.grammar import REFUSED, command, when
from execution_ledger.cli.reading import LINE
from execution_ledger.cli.session import connected
from execution_ledger.cli.showing import Show, columns, say
from execution_ledger.errors import LedgerError, TooLarge

OUTCOMES = columns(
    "PLACE=place OUTCOME=outcome ID=id SUBJECT=subject CODE=error.code DETAIL=error.told"
)
ACKNOWLEDGED = columns("ALERT=id OUTCOME=outcome CODE=code")

UNTIL = click.Option(["--until"], type=when, help="Until this instant, such as 'in 2h'.")


class _Items(msgspec.Struct):
    data: list[dict[str, Any]]


class Written(NamedTuple):
    """A fact in a file."""

    number: int
    """Its line, or its index in the array, from 1."""
    text: bytes
    is_json: bool


@command(
    "pause",
    [
        "elk pause LIN-26-000042 --reason Review",
        "elk pause LIN-26-000042 --reason Holiday --until 2026-12-27",
    ],
    [
        click.Argument(["line"]),
        click.Option(["--reason"], required=True, help="Why, for people."),
        UNTIL,
        click.Option(["--replace"], is_flag=True, default=None, help="Change a hold that is on."),
    ],
)
def pause(show: Show, line: str, **options: Any) -> None:
    """Put the operator's hold on a line: work stops."""
    show.one(connected().ask(routes.PAUSE_EXECUTION, line, **parameters(options)), LINE)


@command(
    "resume",
    ["elk resume LIN-26-000042", "elk resume LIN-26-000042 --reason 'Review is done'"],
    [click.Argument(["line"]), click.Option(["--reason"], help="Why, for people.")],
)
def resume(show: Show, line: str, **options: Any) -> None:
    """Lift the operator's hold of a line. A hold by the service line stays."""
    show.one(connected().ask(routes.RESUME_EXECUTION, line, **parameters(options)), LINE)


@command(
    "ack",
    ["elk ack ALR-26-000012 --note 'On it'", "elk ack ALR-26-000012 ALR-26-000013 --until 'in 4h'"],
    [
        click.Argument(["ids"], nargs=-1, required=True, metavar="ALERT..."),
        click.Option(["--note"], help="What is done about it."),
        click.Option(["--assignee"], help="Who takes care; by default the credential."),
        UNTIL,
    ],
)
def ack(show: Show, ids: tuple[str, ...], **options: Any) -> None:
    """Take care of alerts. Exit code 1: an alert was refused, as it is resolved or unknown."""
    if len(ids) == 1:
        answer = connected().ask(routes.ACKNOWLEDGE_ALERT, *ids, **parameters(options))
        show.rows([{**answer, "outcome": answer["status"]}], ACKNOWLEDGED)
        return
    outcomes = connected().ask(routes.ACKNOWLEDGE_ALERTS, ids=ids, **parameters(options))
    show.rows(outcomes, ACKNOWLEDGED)
    if any(each["code"] for each in outcomes):
        click.get_current_context().exit(REFUSED)


@command(
    "send",
    [
        "elk send facts.jsonl",
        "elk send facts.json --json | jq .outcome",
        "zcat old.gz | elk send -",
    ],
    [click.Argument(["file"], type=click.File("rb"))],
)
def send(show: Show, file: IO[bytes]) -> None:
    """Send facts: CloudEvents as JSON lines, or as one JSON array.

    Prints each fact with its outcome; on a terminal, only the refused ones. The same file may be
    sent again: a fact counts once. Exit code 1: a fact was refused.
    """
    ledger, counts = connected(), Counter[str]()
    rows = _judged(ledger, file, counts)
    try:
        if show.form == "table":
            rows = (row for row in rows if row["outcome"] == "refused")
            first = next(rows, None)
            if first is not None:
                show.rows((first, *rows), OUTCOMES)
        else:
            show.rows(rows, OUTCOMES)
    except LedgerError as error:
        say(f"{summary(counts)} before an error. Send the file again: each fact counts once.")
        raise error
    say(summary(counts))
    if counts["refused"]:
        click.get_current_context().exit(REFUSED)


def summary(counts: Counter[str]) -> str:
    """The numbers of facts by outcome, as a text."""
    return ", ".join(f"{counts[word]} {word}" for word in ("recorded", "duplicate", "refused"))


def _judged(ledger: Connection, file: IO[bytes], counts: Counter[str]) -> Iterator[dict[str, Any]]:
    """Send facts, and yield the outcome of each, in the order of the file."""
    for batch in _batches(file):
        for written, outcome in _outcomes(ledger, batch):
            error = outcome.get("error")
            if error:
                wrong = (f"{each['pointer'] or '/'}: {each['detail']}" for each in error["errors"])
                outcome["error"] = {**error, "told": "; ".join((error["detail"], *wrong))}
            counts[outcome["outcome"]] += 1
            yield {"place": written, **outcome}


def _outcomes(ledger: Connection, batch: list[Written]) -> Iterator[tuple[int, dict[str, Any]]]:
    sent = [written for written in batch if written.is_json]
    try:
        texts = [msgspec.Raw(written.text) for written in sent]
        items = ledger.facts(texts, _Items).data if sent else []
    except TooLarge as problem:
        items = [_refusal(problem.code, problem.detail) for _ in sent]
    judged = {written.number: item for written, item in zip(sent, items, strict=True)}
    for written in batch:
        yield (
            written.number,
            judged.get(written.number) or _refusal("not_json", "This is not valid JSON."),
        )


def _refusal(code: str | None, detail: str) -> dict[str, Any]:
    """The outcome of a fact that the service did not judge."""
    error: dict[str, Any] = {"code": code, "detail": detail, "errors": []}
    return {"id": None, "outcome": "refused", "subject": None, "error": error}


def _batches(file: IO[bytes]) -> Iterator[list[Written]]:
    """The facts of a file, in batches as large as the service takes."""
    batch: list[Written] = []
    size = 0
    for written in _lines_of(file):
        if batch and (len(batch) == BATCH_FACTS or size + len(written.text) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(written)
        size += len(written.text)
    if batch:
        yield batch


def _lines_of(file: IO[bytes]) -> Iterator[Written]:
    first = next((line for line in file if line.strip()), b"").removeprefix(b"\xef\xbb\xbf")
    if first.lstrip().startswith(b"["):
        try:
            facts = msgspec.json.decode(first + file.read(), type=list[msgspec.Raw])
        except msgspec.DecodeError as error:
            raise click.UsageError(f"The file is no JSON array: {error}") from error
        yield from (Written(number, bytes(fact), True) for number, fact in enumerate(facts, 1))
        return
    for number, line in enumerate(chain([first], file), 1):
        if line.strip():
            yield Written(number, line.strip(), _is_json(line))


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return True


COMMANDS = (pause, resume, ack, send)
