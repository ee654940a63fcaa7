"""The tables and columns that ``ledger verify`` does not compare with the log (contract, Proof).

Every other column of every table of the schema ``ledger`` is compared. The views are compared by
``ledger projections verify``. A test walks the catalog, so that a new table or column fails by name
until it is compared or named here.
"""

from collections.abc import Mapping
from types import MappingProxyType

TABLES: Mapping[str, str] = MappingProxyType(
    {
        "append_lock": "has no rows: appends lock it",
        "append_probe": "a beat of the service, of which no event tells",
        "delivery": "what became of webhooks outside, of which only failures are events",
        "dispatch": "how far the dispatcher is with each endpoint",
        "former_checkpoint": "of earlier origins: those of the present log are compared",
        "former_origin": "the origins before the present one, and who adopted the log, and why",
        "idempotency": "outcomes of commands under their Idempotency-Keys, kept for a day",
        "key_use": "when each key was last used, of which no event tells",
        "leader": "which session leads each loop now",
        "lineage": "the PostgreSQL that wrote the log last",
        "listening": "beats of the service, of which no event tells",
        "migration": "which migrations were applied; their checksums are compared at each start",
        "node": "the nodes that beat now",
        "projection": "how far each view is",
        "refusals_omitted": "refusals that are counted until an event tells their number",
        "setting": "what processes must agree on; each compares its own value with it at its start",
        "signer": "the key that signs, and whether sealing has stopped",
        "verification": "what the comparisons themselves found",
    }
)
"""Tables that are not derived from the log."""

COLUMNS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("run_key", "wrapped"): "random, and to be destroyed: compared is whether there is one",
    }
)
"""Columns that do not follow from the log, by table."""

CACHES: Mapping[str, str] = MappingProxyType(
    {"snapshot": "rows may be deleted at any time, and are then made again"}
)
"""Tables whose rows are compared, but may be missing."""
