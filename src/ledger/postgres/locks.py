"""The advisory locks of the database, by which processes agree on who does what.

Any numbers will do, as long as no two are the same and each stays as it is.
"""

MIGRATIONS = 7_300_001
"""Of whoever changes the schema."""

PROJECTOR = 7_300_002
"""Of the leading projector."""

SWEEPER = 7_300_003
"""Of the sweeping process."""

VIEW_TABLES = 7_300_004
"""Of whoever creates the views' tables."""

BUILDER = 7_300_005
"""Of whoever builds a generation of a view; the second key is the view's."""

HOUSEKEEPER = 7_300_006
"""Of the housekeeping process."""

DISPATCHER = 7_300_007
"""Of the dispatching process."""

SEALER = 7_300_008
"""Of the sealing process."""
