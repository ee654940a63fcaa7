"""When each API key, and each session, was last used: noted in memory, written from time to time.

No request waits for a write. Each quarter of a minute, a worker writes the uses that move a key's
stored instant by ``_COARSENESS``. So a key's row is written about once a minute, for any number of
workers, and is never a minute behind.
"""

import logging
import threading
from datetime import datetime
from typing import NamedTuple

import psycopg

from ledger.engine.background import BackgroundLoop
from ledger.engine.postgres.session import RoundConnection

_logger = logging.getLogger(__name__)

_EVERY_SECONDS = 15.0

_COARSENESS = "CASE WHEN u.key_id LIKE 'SES-%%' THEN 15 ELSE 40 END * interval '1 second'"
"""Below a minute, together with the time between two rounds and the time that a key is remembered.
A session may end after a minute without use."""

# Sort the rows by key, so that no two workers wait for each other.
_WRITE = f"""
INSERT INTO ledger.key_use AS u (key_id, organization_id, workspace_id, used_at)
SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[])
ON CONFLICT (key_id) DO UPDATE SET used_at = excluded.used_at
WHERE excluded.used_at >= u.used_at + {_COARSENESS}
"""


class KeyUse(NamedTuple):
    """A use of a key, or of a session."""

    key_id: str
    organization_id: str | None
    workspace_id: str | None
    used_at: datetime


class KeyUses(BackgroundLoop):
    """The uses that one process has noted; ``run_once`` returns the number that it wrote."""

    def __init__(self, conninfo: str) -> None:
        super().__init__("key-uses")
        self._conninfo = conninfo
        self._lock = threading.Lock()
        self._noted: dict[str, KeyUse] = {}

    def note(self, use: KeyUse) -> None:
        with self._lock:
            self._noted[use.key_id] = use

    def run_once(self) -> int:
        """Write the noted uses. Raises PostgreSQL's error; the next round tries again."""
        with self._lock:
            noted, self._noted = self._noted, {}
        if not noted:
            return 0
        try:
            columns = [*zip(*sorted(noted.values()), strict=True)]
            with RoundConnection.connect(
                self._conninfo, autocommit=True, application_name="ledger key uses"
            ) as connection:
                written = connection.execute(_WRITE, [list(column) for column in columns]).rowcount
        except BaseException:
            with self._lock:
                self._noted = noted | self._noted
            raise
        return written

    def _serve(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(_EVERY_SECONDS)
            try:
                self.run_once()
            except psycopg.Error as error:
                _logger.warning("the last use of keys could not be written: %s", error)
            except Exception:
                _logger.exception("the last use of keys could not be written")
