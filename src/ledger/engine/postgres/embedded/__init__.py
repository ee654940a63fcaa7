"""The embedded PostgreSQL, which `ledger` runs if LEDGER_DATABASE_URL is not set.

A single process owns the server of a data directory. The server is its direct child and dies with
it.

    serve            EmbeddedPostgres(data_dir).start(), watch poll(), stop()
    short commands   with running(data_dir, purpose="keys create") as database: use database.url
                     a command owns the server while it runs, or uses a running server

Three locks, in the folder that holds the database:

    owner.lock    held by the owner; its text says which command the owner runs
    users.lock    held shared by the short commands that use another command's server. A short
                  command that owns the server takes the lock exclusively before it stops the
                  server, so no other command loses a server that it uses
    server.lock   inherited by every process of PostgreSQL: free when the last of them has ended

Each start, also after a crash or a kill, waits for server.lock. Then PostgreSQL recovers.

Start the server from the main thread: for the kernel, the server's parent is the thread that
started it, and the server is shut down when this thread ends. A worker that is forked from the
owner inherits its locks, and would keep them when the owner is killed. So a worker calls `let_go`
first.

    owner ── server ── leftovers ── place ── programs ── account ── child
      └── lock ──────────┴────────────────────────────────┘     (a process)
"""

from ledger.engine.postgres.embedded.account import EmbeddedPostgresError, forget_other_servers
from ledger.engine.postgres.embedded.owner import (
    AttachedPostgres,
    DirectoryInUse,
    EmbeddedPostgres,
    running,
    temporary_server,
)
from ledger.engine.postgres.embedded.place import has_database

__all__ = [
    "AttachedPostgres",
    "DirectoryInUse",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "forget_other_servers",
    "has_database",
    "running",
    "temporary_server",
]
