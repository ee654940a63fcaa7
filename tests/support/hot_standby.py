"""A primary with a hot standby, by the embedded PostgreSQL's own programs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import run
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.data_dirs import QUICK
from tests.support.embedded import make_private, query, served, until


@contextlib.contextmanager
def standby_of(primary: EmbeddedPostgres, folder: Path) -> Iterator["Standby"]:
    """A hot standby of the primary, which follows it until the test makes it lag."""
    paths = find_paths(folder)
    paths.make()
    make_private(paths)
    source = primary.url.replace("/ledger?", "/postgres?")
    options = ("-R", "-X", "stream", "-c", "fast", "-d", source)
    copied = run(paths.command("pg_basebackup", "-D", str(paths.database), *options))
    assert copied.returncode == 0, copied.stderr
    with served(folder, settings=QUICK) as server:
        yield Standby(primary.url, server.url)


class Standby:
    """A standby by its address; its replay can be paused."""

    def __init__(self, primary: str, url: str) -> None:
        self.primary, self.url = primary, url

    def catch_up(self) -> None:
        """Wait until the standby has replayed what the primary has written by now."""
        ((end,),) = query(self.primary, "SELECT pg_current_wal_insert_lsn()::text")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{end}'::pg_lsn"
        until(lambda: query(self.url, reached) == [(True,)], "the standby")

    def pause(self) -> None:
        """Replay no more, although the log goes on arriving."""
        query(self.url, "SELECT pg_wal_replay_pause()")
        statement = "SELECT pg_get_wal_replay_pause_state()"
        until(lambda: query(self.url, statement) == [("paused",)], "the pause of the replay")

    def resume(self) -> None:
        """Go on replaying."""
        query(self.url, "SELECT pg_wal_replay_resume()")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Replay nothing within the block."""
        self.pause()
        try:
            yield
        finally:
            self.resume()
