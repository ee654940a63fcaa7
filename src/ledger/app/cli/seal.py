"""The commands about signing: its status, and an operator's order to go on (contract, Proof)."""

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.app.cli.printing import Row, print_json, print_rows
from ledger.app.composition.database import ConfigurationError, open_vault
from ledger.app.composition.writing import utc_now
from ledger.app.settings import Settings
from ledger.engine.log.nodes import Node, node_id_in, nodes
from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.proof.sealing.leaf import UnreadableEvent
from ledger.features.proof.sealing.note import BadNote, parse
from ledger.features.proof.sealing.origins import NothingIsWrong, adopt, former_origins
from ledger.features.proof.sealing.watch import WitnessWatch

# The current origin with the newest published checkpoint, the newest of all, and the leader.
_STATUS = """
SELECT split_part(s.vkey, '+', 1), newest.note, shown.size, s.stopped_at, s.error, s.waits_for,
    (SELECT node_id FROM ledger.leader WHERE loop = 'sealer')
FROM (SELECT) AS log LEFT JOIN ledger.signer AS s ON true LEFT JOIN LATERAL (
    SELECT note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1
) AS newest ON true LEFT JOIN LATERAL (
    SELECT size FROM ledger.checkpoint WHERE size <= s.shown_size ORDER BY size DESC LIMIT 1
) AS shown ON true
"""


def show_status(_: Settings, conninfo: str, *, as_json: bool) -> int:
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        (row,) = connection.execute(_STATUS).fetchall()
        found, former = nodes(connection), former_origins(connection)
    status = _status(row)
    beats = [_beat(node) for node in found]
    ended: list[Row] = [
        {
            "former_origin": one.name,
            "ended_at": one.ended_at,
            "ended_by": one.ended_by,
            "reason": one.reason,
            "last_known_size": one.last_size,
            "kept_size": one.kept_size,
        }
        for one in former
    ]
    if as_json:
        print_json({**status, "nodes": beats, "former_origins": ended})
        return 0
    print_rows(
        [{"name": name, "value": value} for name, value in status.items()], ("name", "value")
    )
    for rows in (beats, ended):
        if rows:
            print()
            print_rows(rows, tuple(rows[0]))
    return 0


def _status(row: TupleRow) -> Row:
    origin, note, published, stopped_at, error, waits_for, leader = row
    size, root = ("0", None) if note is None else note.split("\n")[1:3]
    signing = "nothing is signed yet" if origin is None else "signing"
    state = signing if waits_for is None else "waiting"
    return {
        "origin": origin,
        "size": int(size),
        "root": root,
        "shown_size": published or 0,
        "sealer": leader,
        "state": state if stopped_at is None else "stopped",
        "stopped_at": stopped_at,
        "why": waits_for if stopped_at is None else error,
    }


def _beat(node: Node) -> Row:
    size: int | str | None = None
    origin = None
    try:
        if node.witness is not None:
            parsed = parse(node.witness)
            size, origin = parsed.checkpoint.size, parsed.origin
    except BadNote:
        size = "unreadable"
    return {
        "node": node.node_id,
        "role": node.role,
        "version": node.version,
        "seconds_since_beat": round(max(0.0, node.silent_seconds)),
        "witness_size": size,
        "witness_origin": origin,
    }


def adopt_log(settings: Settings, conninfo: str, reason: str) -> int:
    """Begin a new origin for the log as it is. Raises ConfigurationError if nothing is wrong."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        try:
            adopted = adopt(
                connection,
                open_vault(settings),
                WitnessWatch(node_id_in(settings.data_dir), settings.witness_folder),
                reason=reason,
                by=COMMAND_LINE.actor.id,
                clock=utc_now,
            )
        except (BadNote, NothingIsWrong, UnreadableEvent) as error:
            raise ConfigurationError(str(error)) from error
    print(f"{adopted.origin} begins with {adopted.kept_size:,} sealed events.")
    print(f"Its first note says: {adopted.after}" if adopted.after else "No earlier note is known.")
    return 0
