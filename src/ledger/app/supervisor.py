"""``ledger serve``: one process that owns PostgreSQL, the API workers and all loops.

    supervisor (this) ── postgres            the embedded server, when no URL is set
                      ├─ api worker × N      uvicorn over one shared listening socket
                      ├─ writer              decides and appends for all workers, if N > 1; one
                      │                      worker has the writer in its own process
                      ├─ loops               projector, rebuilder, sweeper, lease watch,
                      │                      housekeeper: not in the workers, which would wait for
                      │                      the interpreter lock
                      ├─ dispatcher          sends webhooks: a separate process for the same reason
                      └─ sealer              seals the log: hashing would hold up the loops, too

The role of a node says which of them run there: an ``api`` node has no loops and no dispatcher, and
its sealer never leads; a ``loops`` node has one worker, which answers probes.

A process that dies is started again. If a child cannot be started for a minute, the service ends,
so that its operator learns of it. When the supervisor dies, by any signal, all the others die, too:
the children watch its lifeline, and PostgreSQL has the kernel's parent-death signal.

The children are forked. An interpreter takes half a second to load their code, most of a start if
each child did so. Therefore the supervisor loads the code once, on a thread that has ended before
the first fork (PostgreSQL starts meanwhile), and the children share the memory. Forking is safe as
long as the supervisor, from its first child on, has only one thread and no database connection.
"""

import contextlib
import errno
import gc
import multiprocessing.connection
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType

from ledger.app import Role, leads, serves
from ledger.app.address import fetched, keeping_address, reachable
from ledger.app.children import STOPS, AddressInUse, Child, ChildMain, Database
from ledger.app.composition.database import (
    ConfigurationError,
    find_all,
    prepare_all,
    with_master_key,
)
from ledger.app.metrics import expect_restarts, metrics_folder
from ledger.app.privileges import make_data_dir, unprivileged, user_of_root
from ledger.app.processes import GRACE_SECONDS, Lifeline
from ledger.app.settings import Settings
from ledger.engine.log.nodes import node_id_in
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import Account
from ledger.engine.postgres.leadership import at_node
from ledger.engine.telemetry.repetitions import Repetitions
from ledger.engine.telemetry.setup import Announcing, configure_logging

_UNTAKEN_SECONDS = 10
"""A connection whose client acknowledges no sent data for so long is closed."""

_LAST = ("writer", "loops")

Announce = Callable[[str], None]


def serve(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    announce: Announce,
    *,
    role: Role = "all",
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. The role says which processes run here.

    With the role ``read`` only API workers run, which write nothing (contract, Several nodes).
    Raises ConfigurationError, EmbeddedPostgresError, SchemaError or psycopg.OperationalError, each
    with one clear line, if the service cannot start, or a child cannot be started again.
    """
    only_reads = role == "read"
    _refuse_settings(settings, role)
    stopping = _set_by_signals()
    repetitions = configure_logging(settings.log_format)
    announce = Announcing(announce, settings.log_format)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(host, port))
        port = listener.getsockname()[1]
        postgres = None
        if settings.database_url is None:
            postgres = EmbeddedPostgres(settings.data_dir, purpose="serve", announce=announce)
            stack.callback(postgres.stop)
            postgres.own()
        account = user_of_root(postgres)
        if postgres is None:
            make_data_dir(settings.data_dir, account)
        node_id_in(settings.data_dir)
        metrics = stack.enter_context(metrics_folder(settings.data_dir.absolute(), port))
        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(_load)
            if postgres is not None:
                postgres.start()
                _tell_of_the_key(settings, postgres.paths.base, announce)
            conninfo = settings.database_url or (postgres.service_url if postgres else "")
            begin = find_all if only_reads else prepare_all
            conninfo, reading = begin(settings, conninfo, announce)
        code = loading.result()
        written = metrics, settings.witness_folder
        account = unprivileged(account, written, (conninfo, reading), announce)
        if account is not None:
            settings = with_master_key(settings)
            _tell_of_the_user(account, postgres, announce)
        lifeline = Lifeline()
        let_go = [lifeline.watch, *([postgres.let_go] if postgres is not None else [])]
        conninfos = conninfo, reading
        children = _children(code, settings, conninfos, listener, role, workers, let_go, account)
        database = Database(postgres) if postgres is not None else None
        address = address_of(host, port)
        stack.enter_context(keeping_address(settings.data_dir, address))
        is_ready = partial(_is_ready, listener, address)
        line = f"Serving on {address}{settings.root_path}"
        try:
            _supervise(children, database, stopping, is_ready, line, announce, repetitions)
        except AddressInUse as error:
            raise _cannot_listen(host, port, os.strerror(errno.EADDRINUSE)) from error
        finally:
            listener.close()  # a new client would otherwise wait for workers that accept no more
            _end(children)


def _refuse_settings(settings: Settings, role: Role) -> None:
    """Raise ConfigurationError for settings with which no service can start."""
    if role == "read" and settings.database_url is None:
        raise ConfigurationError("A read node needs a database of others: set LEDGER_DATABASE_URL.")
    if settings.oidc_grants is None or not serves(role):
        return
    # Only loaded where a provider is configured.
    from ledger.features.sign_in.access.grants import Grants

    if (why := Grants(settings.oidc_grants).why_broken) is not None:
        raise ConfigurationError(f"The service does not start: {why}.")


def _children(
    code: ModuleType,
    settings: Settings,
    conninfos: tuple[str, str],
    listener: socket.socket,
    role: Role,
    workers: int,
    let_go: Sequence[Callable[[], None]],
    account: Account | None,
) -> list[Child]:
    """All processes of the service, each without the inherited files that it must not hold.

    Several workers hand what they write over to one process. ``conninfos``: to write, and to read.
    """
    post = code.Post() if workers > 1 and serves(role) and role != "read" else None
    loops = _loops(code, settings, conninfos[0], role)
    servers = _servers(code, settings, conninfos, listener, role, workers, post)
    apart = [*let_go, listener.close]
    children = [Child(name, run, let_go, account) for name, run in servers.items()]
    if post is not None:
        writer = partial(code.run_writer, settings, conninfos[0], post)
        children.append(Child("writer", writer, apart, account))
        apart = [*apart, post.close]
    children[:0] = [Child(name, run, apart, account) for name, run in loops.items()]
    expect_restarts(child.name for child in children)
    return children


def _loops(code: ModuleType, settings: Settings, conninfo: str, role: Role) -> dict[str, ChildMain]:
    runs: dict[str, Callable[..., None]] = {}
    if leads(role):
        runs |= {"loops": code.run_loops, "dispatcher": code.run_dispatcher}
    if role != "read":
        runs["sealer"] = partial(code.run_sealer, role)
    at_this_node = at_node(conninfo, node_id_in(settings.data_dir))
    return {name: partial(run, settings, at_this_node) for name, run in runs.items()}


def _servers(
    code: ModuleType,
    settings: Settings,
    conninfos: tuple[str, str],
    listener: socket.socket,
    role: Role,
    workers: int,
    post: object,
) -> dict[str, ChildMain]:
    """The processes that answer requests, by name. ``conninfos``: to write, and to read.

    ``post`` leads to the node's writer; None if a worker has it on a thread.
    """
    # Only probes reach a node that does not serve.
    indexes = range(workers if serves(role) else 1)
    if role == "read":
        run = partial(code.run_reading_api, settings, conninfos[1], listener)
        return {f"api-{index + 1}": run for index in indexes}
    run = partial(code.run_api, settings, *conninfos, listener, role, post)
    return {f"api-{index + 1}": run for index in indexes}


def _set_by_signals() -> threading.Event:
    """An event that a signal to stop sets. An ignored SIGHUP (nohup) stays ignored."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    return stopping


def _tell_of_the_key(settings: Settings, folder: Path, announce: Announce) -> None:
    """Announce that the master key is next to the database's files, in a folder that somebody
    chose.

    A copy of such a folder, as in a backup, opens every run that was not erased.
    """
    key = settings.key_file
    is_chosen = settings.data_dir != Settings.model_fields["data_dir"].default
    if is_chosen and key is not None and key.absolute().is_relative_to(folder.absolute()):
        announce(
            f"The master key {key} lies beside the database's files, so whoever copies the folder"
            " can read every run: LEDGER_MASTER_KEY_FILE names another place."
        )


def _tell_of_the_user(
    account: Account, postgres: EmbeddedPostgres | None, announce: Announce
) -> None:
    """Announce it if the service's processes run as PostgreSQL's own user."""
    if postgres is not None and postgres.paths.why_shared is not None:
        announce(
            f"As root: the service's processes run as user {account.name}, like PostgreSQL, whose"
            f" superuser reaches them ({postgres.paths.why_shared})."
        )


def _load() -> ModuleType:
    """Load the children's code, out of reach of the garbage collector.

    The metrics folder must exist before: prometheus-client looks for it while being loaded.
    """
    gc.disable()
    from ledger.app import workers

    workers.make_ready()
    gc.freeze()
    gc.enable()
    return workers


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at the address, which listens once the first worker takes requests.

    Until then connections are refused: they would wait for the start, unknown to a proxy. But until
    then another service may bind the address too; the first to listen keeps it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit this option. Without it, a connection whose client reads no more
            # or has vanished would stay for ever, even once closed here: written data waits.
            milliseconds = int(_UNTAKEN_SECONDS * 1000)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise _cannot_listen(host, port, error.strerror) from error
        yield listener


def _cannot_listen(host: str, port: int, reason: str | None) -> ConfigurationError:
    return ConfigurationError(f"Cannot listen on {host}:{port}: {reason}.")


def _supervise(
    children: list[Child],
    database: Database | None,
    stopping: threading.Event,
    is_ready: Callable[[], bool],
    line: str,
    announce: Announcing,
    repetitions: Repetitions,
) -> None:
    """Keep everything running until ``stopping`` is set; announce once it is ready.

    Raises AddressInUse, or ConfigurationError if a child cannot be started.
    """
    ready = False
    while not stopping.is_set():
        repetitions.tell_due()
        if database is not None:
            database.ensure_running()
        for child in children:
            child.ensure_running()
        if not ready and is_ready():
            ready = True
            announce(line)
            announce.begin_logging()
        sentinels = [c.process.sentinel for c in children if c.process is not None]
        multiprocessing.connection.wait(sentinels, timeout=0.25 if ready else 0.05)


def _end(children: list[Child]) -> None:
    """End all children, writer and loops last: accepted requests are answered by both."""
    deadline = time.monotonic() + GRACE_SECONDS
    last = [child for child in children if child.name in _LAST]
    others = [child for child in children if child.name not in _LAST]
    for group in (others, last):
        for child in group:
            child.terminate()
        for child in group:
            child.join(deadline)


def address_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_ready(listener: socket.socket, address: str) -> bool:
    """True if this service is ready, not another one that listens at the address."""
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    own = reachable(address)
    return own is not None and fetched(f"{own}/readyz", 1.0) is not None
