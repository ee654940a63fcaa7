"""Durations in seconds whose order matters (contract, Health and Several nodes).

``tests/engine/postgres/test_timing.py`` asserts the order. Other durations are defined where they
are used.
"""

# A reply of the database.

CONNECT_SECONDS = 2
"""How long connecting to one host may take."""

LOCK_SECONDS = 2
"""How long an append waits for the append lock."""

HELD_SECONDS = 5
"""PostgreSQL ends a session that sends nothing for so long within an append or a beat."""

CANCEL_SECONDS = 9
"""PostgreSQL cancels a read's statement after this time, before its connection is closed."""

ANSWER_SECONDS = 9.5
"""The time limit of the reply to a statement, if a request waits for it."""

OVERDUE_SECONDS = 0.25
"""How often a process checks for overdue reads: one timer serves all reads."""

ROUND_SECONDS = 10.0
"""The time limit in a background loop. Its statements take milliseconds, and after a failure the
next round does the whole work."""

ASK_SECONDS = 3.0
"""The interval of a listener's empty groups. The server must answer each before the next is due."""

# A write.

WAIT_SECONDS = 2.0
"""How long a write, or a read that requests a position, waits for the views (contract, Reading)."""

FAILING_SECONDS = 5.0
"""An append that takes longer fails; a healthy one of any size does not take so long."""

WRITER_SECONDS = 7.5
"""How long a request waits for the writer if appends fail. If they succeed, it may wait longer
behind others. With the wait for the views this is less than the 10 s of the contract (Several
nodes)."""

# The lead of a process.

POLL_SECONDS = 1.0
"""The time between two checks of a rival, and of an idle leader at its session."""

BEAT_SECONDS = 1.0
"""The time between two beats."""

BEAT_ANSWER_SECONDS = 3.0
"""After this time a beat gives up a silent server, and connects anew."""

LEFT_SECONDS = 3.0
"""How long a process that cannot do the work leaves the lead to rivals, which check sooner."""

APART_SECONDS = 3.0
"""Checks farther apart prove nothing: the rival, or the database, stood still in between."""

DISPATCH_SECONDS = 3.0
"""The longest time between two checks of the dispatcher. Each check confirms its lead."""

CERTAIN_SECONDS = 4.0
"""How long the lead is certain after it was confirmed."""

FROZEN_SECONDS = 8.0
"""A leader without a beat for so long is frozen, or its machine has vanished."""

LIVING_SECONDS = 15.0
"""Nobody waits any more for a node without a beat for so long."""

# The beat of the log.

LISTENING_SECONDS = 1.0
"""The time between two notes that the service listens, and between two beats of the log."""

GAP_SECONDS = 2.0
"""After a longer time without a note, leases are postponed: heartbeats reached nobody."""

LATE_SECONDS = 5.0
"""A standby whose last beat is older answers no read (contract, Several nodes)."""
