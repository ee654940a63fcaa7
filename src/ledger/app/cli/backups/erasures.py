"""The command that erases runs again after a restore: an older backup has their keys again."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, BinaryIO

import msgspec

from ledger.app.cli.input import opened
from ledger.app.composition.database import ConfigurationError
from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.values.errors import LedgerError, Unavailable
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import RUN_ID
from ledger.engine.writer.request import Receipt
from ledger.features.runs.commands import EraseRun

_REASON = "erased before the restore of a backup"
"""The reason if the export's entry has none."""

_AT_ONCE = 500


class _Entry(msgspec.Struct):
    """The common fields of all entries of the audit log."""

    action: str
    outcome: str
    resource: msgspec.Raw


class _Run(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=RUN_ID)]


class _Erasure(msgspec.Struct):
    """The entry of an erasure."""

    resource: _Run
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None


_decode_entry = msgspec.json.Decoder(_Entry).decode
_decode_erasure = msgspec.json.Decoder(_Erasure).decode


def erase_again(settings: Settings, conninfo: str, file: str) -> int:
    """Erase each run that an audit export (jsonl) says was erased.

    Print each run that could not be erased; return 1 if there is one. Raises ConfigurationError,
    before anything is erased, for a line that is no entry of the audit log.
    """
    with opened(file) as (stream, _):
        runs = _erased_in(stream)
    counts = Counter({"erased": 0, "erased already": 0, "not erased": 0})
    with writing(settings, conninfo) as writer:
        for some in _batches(runs):
            commands = [EraseRun(run, COMMAND_LINE, reason=reason) for run, reason in some]
            for (run, _), outcome in zip(some, writer.submit(commands).result(), strict=True):
                if isinstance(outcome, Unavailable):
                    raise outcome
                if isinstance(outcome, LedgerError):
                    print(f"{run}: {outcome.code} {outcome}")
                counts[_kind(outcome)] += 1
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), file=sys.stderr)
    return 1 if counts["not erased"] else 0


def _erased_in(stream: BinaryIO) -> Mapping[str, str]:
    runs: dict[str, str] = {}
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            entry = _decode_entry(line)
            if (entry.action, entry.outcome) == (EraseRun.action, "succeeded"):
                erasure = _decode_erasure(line)
                runs.setdefault(erasure.resource.id, erasure.reason or _REASON)
        except msgspec.MsgspecError as error:
            raise ConfigurationError(
                f"Line {number} of the file is no entry of an audit export in JSON lines."
            ) from error
    return runs


def _batches(runs: Mapping[str, str]) -> Iterator[list[tuple[str, str]]]:
    left = iter(runs.items())
    return iter(lambda: list(islice(left, _AT_ONCE)), [])


def _kind(outcome: object) -> str:
    if isinstance(outcome, Receipt):
        return "erased already" if outcome.duplicate else "erased"
    return "not erased"
