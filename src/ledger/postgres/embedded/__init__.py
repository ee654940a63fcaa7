"""The embedded PostgreSQL: what `ledger` runs where no LEDGER_DATABASE_URL is set.

One process owns the server of a data directory; the server is its direct child and dies with it.

    serve            EmbeddedPostgres(data_dir).start(), watch poll(), stop()
    short commands   with running(data_dir, purpose="keys create") as database: use database.url
                     they own the server for their duration, or use the one that runs

Three locks, in the folder that holds the database:

    owner.lock    held by the owner; its text says who that is
    users.lock    shared by the short commands that use another's server; a short command that owns
                  the server takes it exclusively before it stops, so it stops under nobody
    server.lock   inherited by every process of PostgreSQL: free when the last of them is gone

A start, after whatever end, waits for server.lock and then lets PostgreSQL recover.

Start from the main thread: to the kernel the server's parent is the thread that started it, and
the server is shut down when that ends. A worker that is forked from the owner shares its locks, and
would keep them when the owner is killed: there, call `let_go` first.

    owner ── server ── leftovers ── place ── programs ── account ── child (a process of its own)
      └── lock ──────────┴────────────────────────────────┘
"""

from ledger.postgres.embedded.account import EmbeddedPostgresError, forget_other_servers
from ledger.postgres.embedded.owner import (
    AttachedPostgres,
    DirectoryInUse,
    EmbeddedPostgres,
    running,
)

__all__ = [
    "AttachedPostgres",
    "DirectoryInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "forget_other_servers",
    "running",
]
