"""Keys of advisory locks, by which processes agree which process does which work.

The numbers are arbitrary, but all different, and they must never change.
"""

MIGRATIONS = 7_300_001
"""Held by a process that changes the schema."""

PROJECTOR = 7_300_002
"""Held by the leading projector."""

SWEEPER = 7_300_003
"""Held by the sweeping process."""

VIEW_TABLES = 7_300_004
"""Held by a process that creates the views' tables."""

BUILDER = 7_300_005
"""Held by a process that builds a generation of a view. The second key is the view's."""

HOUSEKEEPER = 7_300_006
"""Held by the housekeeping process."""

DISPATCHER = 7_300_007
"""Held by the dispatching process."""

SEALER = 7_300_008
"""Held by the sealing process."""

LEASES = 7_300_009
"""Held by the process that watches over leases."""

VERIFICATION = 7_300_011
"""Held by the process that compares stored data with the log each night."""

REBUILDER = 7_300_012
"""Held by the process that builds new views, and views of another version, after its start."""

STORY = 7_300_014
"""Held by a process that records facts under another time than now. Shared by the rounds of loops
that decide by the present time."""

FOLLOWING = {
    "projector": PROJECTOR,
    "sweeper": SWEEPER,
    "leases": LEASES,
    "housekeeper": HOUSEKEEPER,
}
"""The loops that follow the log, which one process leads together."""

SEALING = {"sealer": SEALER, "verification": VERIFICATION}
"""The loops that hash, of another process."""

WALLS = 7_300_020
"""Held by a process that sets policies, or the rights of the role that reads."""
