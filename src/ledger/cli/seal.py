"""The commands about signing: how it stands, and an operator's word to go on (contract, Proof)."""

import psycopg
from psycopg.rows import tuple_row
from rich.table import Table

from ledger.cli.printing import print_table
from ledger.intake.principal import COMMAND_LINE
from ledger.log.nodes import nodes
from ledger.sealing.leaf import UnreadableEvent
from ledger.sealing.note import BadNote, parse
from ledger.sealing.origins import NothingIsWrong, adopt, former_origins
from ledger.service.composition.database import ConfigurationError, open_vault
from ledger.service.composition.sealing import create_watch
from ledger.service.composition.writing import utc_now
from ledger.settings import Settings

# The present origin with the newest checkpoint that is shown, the newest of all, and who leads.
_STATUS = """
SELECT split_part(s.vkey, '+', 1), newest.note, shown.size, s.stopped_at, s.error, s.waits_for,
    (SELECT node_id FROM ledger.leader WHERE loop = 'sealer')
FROM ledger.signer AS s LEFT JOIN LATERAL (
    SELECT note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1
) AS newest ON true LEFT JOIN LATERAL (
    SELECT size FROM ledger.checkpoint WHERE size <= s.shown_size ORDER BY size DESC LIMIT 1
) AS shown ON true
"""


def show_status(conninfo: str) -> int:
    """Print what is signed and shown, each node's witness, and why nothing is signed, if so."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        row = connection.execute(_STATUS).fetchone()
        if row is None:
            raise ConfigurationError("The log has no key.")
        origin, note, shown, stopped_at, error, waits_for, leader = row
        found, former = nodes(connection), former_origins(connection)
    size, root = ("0", "") if note is None else note.split("\n")[1:3]
    if stopped_at is not None:
        state = f"stopped at {stopped_at:%Y-%m-%d %H:%M:%S} UTC: {error}"
    else:
        state = "signing" if waits_for is None else f"waiting: {waits_for}"
    facts = Table(show_header=False)
    for name, value in (
        ("origin", origin), ("size", size), ("root", root), ("shown", str(shown or 0)),
        ("sealer", f"node {leader}" if leader else ""), ("state", state),
    ):  # fmt: skip
        facts.add_row(name, value)
    print_table(facts)
    beating = Table("node", "role", "version", "last beat", "witness", "of origin")
    for node in found:
        witness = _witness(node.witness)
        beating.add_row(
            node.node_id,
            node.role,
            node.version,
            f"{max(0.0, node.silent_seconds):.0f} s ago",
            *witness,
        )
    print_table(beating)
    if former:
        ended = Table("former origin", "ended", "by", "reason", "last known size", "kept of it")
        for one in former:
            ended.add_row(
                one.name,
                f"{one.ended_at:%Y-%m-%d %H:%M}",
                one.ended_by,
                one.reason,
                str(one.last_size),
                str(one.kept_size),
            )
        print_table(ended)
    return 0


def adopt_log(settings: Settings, conninfo: str, reason: str) -> int:
    """Begin a new origin for the log as it is. Raises ConfigurationError if nothing is wrong."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        try:
            adopted = adopt(
                connection,
                open_vault(settings),
                create_watch(settings),
                reason=reason,
                by=COMMAND_LINE.actor.id,
                clock=utc_now,
            )
        except (BadNote, NothingIsWrong, UnreadableEvent) as error:
            raise ConfigurationError(str(error)) from error
    print(f"{adopted.origin} begins with {adopted.kept_size:,} sealed events.")
    print(f"Its first note says: {adopted.after}" if adopted.after else "No earlier note is known.")
    return 0


def _witness(note: str | None) -> tuple[str, str]:
    """The size and the origin of a node's witness."""
    try:
        said = None if note is None else parse(note)
    except BadNote:
        return "unreadable", ""
    return ("none", "") if said is None else (str(said.checkpoint.size), said.origin)
