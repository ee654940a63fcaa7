"""The durations that must stand in an order, in seconds (contract, Health and Several nodes).

``tests/engine/postgres/test_timing.py`` asserts the order. A duration that stands alone is
beside its use.
"""

# A reply of the database.

CONNECT_SECONDS = 2
"""How long connecting to one host may take."""

LOCK_SECONDS = 2
"""How long an append waits for the append lock."""

HELD_SECONDS = 5
"""PostgreSQL ends a session that says nothing for so long within an append, or within a beat."""

CANCEL_SECONDS = 9
"""PostgreSQL cancels a statement of a read then, before its connection is closed."""

ANSWER_SECONDS = 9.5
"""The time limit of the reply to a statement, if a request waits for it."""

OVERDUE_SECONDS = 0.25
"""How often a process looks for overdue reads: one timer serves all reads."""

ROUND_SECONDS = 10.0
"""The time limit in a background loop. Its statements take milliseconds, and after a failure the
next round does the whole work."""

ASK_SECONDS = 3.0
"""The interval of a listener's empty groups. The server must answer a group before the next one is
due."""

# A write.

WAIT_SECONDS = 2.0
"""How long a write, or a read that asks for a position, waits for the views (contract, Reading)."""

FAILING_SECONDS = 5.0
"""An append that takes so long fails; a healthy one of any size does not take so long."""

WRITER_SECONDS = 7.5
"""How long a request waits for the writer if appends fail: for longer it waits only behind others.
With the wait for the views this is less than the 10 s of the contract (Several nodes)."""

# The lead of a process.

POLL_SECONDS = 1.0
"""The time between two looks of a rival, and of a leader that has nothing to do at its session."""

BEAT_SECONDS = 1.0
"""The time between two beats."""

BEAT_ANSWER_SECONDS = 3.0
"""A beat gives up a silent server then, and connects anew."""

LEFT_SECONDS = 3.0
"""For so long a process that cannot do the work leaves the lead to rivals, which look sooner."""

APART_SECONDS = 3.0
"""Looks farther apart prove nothing: the rival, or the database, stood still in between."""

DISPATCH_SECONDS = 3.0
"""The longest time between two looks of the dispatcher, each of which confirms its lead."""

CERTAIN_SECONDS = 4.0
"""For how long the lead is certain once it was confirmed."""

FROZEN_SECONDS = 8.0
"""A leader that has not beaten for so long is frozen, or its machine has vanished."""

LIVING_SECONDS = 15.0
"""A node that has not beaten for so long is not waited for any more."""

# The beat of the log.

LISTENING_SECONDS = 1.0
"""The time between two notes that the service listens, and between two beats of the log."""

GAP_SECONDS = 2.0
"""After a longer time without a note, leases are put off: heartbeats found nobody."""

LATE_SECONDS = 5.0
"""A standby whose last beat is older answers no read (contract, Several nodes)."""
