"""A standby of an embedded server, which may lag, and may be promoted."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import run
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.data_dirs import QUICK, copy_of
from tests.support.embedded import make_private
from tests.support.views import head, query, until


class Pair:
    """A primary and a copy of it, which follows it while it runs."""

    def __init__(self, folder: Path, template: Path) -> None:
        primary = copy_of(template, folder / "primary")
        self.primary = EmbeddedPostgres(primary, purpose="tests", settings=QUICK)
        self._copy_dir = folder / "standby"
        self.standby = EmbeddedPostgres(self._copy_dir, purpose="tests", settings=QUICK)

    def copy(self) -> None:
        """Copy the primary, and let the copy follow it up to the end of the log, then lag."""
        self.standby.own()
        paths = find_paths(self._copy_dir)
        make_private(paths)
        made = run(
            paths.command(
                "pg_basebackup",
                *("-D", str(paths.database), "-R", "-X", "stream", "-c", "fast"),
                *("-d", self.primary.url),
            )
        )
        assert made.returncode == 0, made.stderr
        self.standby.start()
        end = head(self.primary.url)
        until(lambda: head(self.standby.url) == end, "the standby")
        self.standby.stop()

    def fail_over(self) -> str:
        """Lose the primary, with all that the standby lacks, and promote that; its address."""
        self.primary.stop()
        return self.promote()

    def promote(self) -> str:
        """Promote the copy, even while the primary lives; return its address."""
        self.standby.start()
        query(self.standby.url, "SELECT pg_promote()")
        recovering = "SELECT pg_is_in_recovery()"
        until(lambda: query(self.standby.url, recovering) == [(False,)], "the promotion")
        return self.standby.url


@contextmanager
def pair_in(folder: Path, template: Path) -> Iterator[Pair]:
    """A pair whose primary runs."""
    pair = Pair(folder, template)
    pair.primary.start()
    try:
        yield pair
    finally:
        pair.primary.stop()
        pair.standby.stop()
