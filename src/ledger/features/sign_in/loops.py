"""The housekeeper's chore: drops sessions that have timed out."""

from datetime import timedelta

from ledger.engine.writer.housekeeper import Round

_AT_ONCE = 5000

# Drop sessions that have timed out. This leaves no event.
_DROP_OLD = """
DELETE FROM ledger.session WHERE session_id IN (
    SELECT s.session_id
    FROM ledger.session AS s LEFT JOIN ledger.key_use AS u ON u.key_id = s.session_id
    WHERE s.ends_at <= %(now)s OR coalesce(u.used_at, s.begun_at) <= %(unused_since)s
    LIMIT %(limit)s)
"""

# Drop the last uses of ended sessions: a use may be written after the end.
_DROP_USES = """
DELETE FROM ledger.key_use AS u WHERE u.key_id LIKE 'SES-%%'
    AND NOT EXISTS (SELECT FROM ledger.session AS s WHERE s.session_id = u.key_id)
"""


def drop_old(round: Round, idle: timedelta) -> tuple[int, bool]:
    """Drop sessions that have ended, or that were not used for ``idle``."""
    dropped = round.drop(_DROP_OLD, _AT_ONCE, now=round.now, unused_since=round.now - idle)
    round.connection.execute(_DROP_USES.encode(), {"now": round.now})
    return dropped
