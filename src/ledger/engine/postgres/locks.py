"""Keys of advisory locks: they assign each kind of work to one process.

The numbers are arbitrary, but all different, and they must never change.
"""

MIGRATIONS = 7_300_001
"""Held by a process that changes the schema."""

VIEW_TABLES = 7_300_004
"""Held by a process that creates the views' tables."""

BUILDER = 7_300_005
"""Held by a process that builds a generation of a view. The second key is the view's."""

REBUILDER = 7_300_012
"""Held by the process that, after its start, builds new views and views of another version."""

STORY = 7_300_014
"""Held by a process that records facts under a time other than now. Shared by the rounds of loops
that decide by the present time."""

DISPATCHER = 7_300_007
"""Held by the dispatching process."""

FOLLOWING = {
    "projector": 7_300_002,
    "sweeper": 7_300_003,
    "leases": 7_300_009,
    "housekeeper": 7_300_006,
    "watches": 7_300_015,
}
"""The loops that follow the log. The process that leads them together holds the locks."""

SEALING = {"sealer": 7_300_008, "verification": 7_300_011}
"""The loops that hash, led by another process."""

POLICIES = 7_300_020
"""Held by a process that sets policies, or the rights of the role that reads."""

SPANS = 7_300_021
"""Held while spans of an organization are stored. The second key is the organization's."""
