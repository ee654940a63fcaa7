"""The running product under measurement, and a client that reads answers."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import limits
import loadgen
from story import batch_of

from ledger.engine.postgres.embedded.place import find_paths

LEDGER = str(Path(sys.executable).with_name("ledger"))
HELD = 40  # batches encoded at a time while loading
BATCH_CLIENTS = 4  # two for each worker: one batch is decided while the other's bytes arrive
ONE, MANY = "application/cloudevents+json", "application/cloudevents-batch+json"

STARTS_WITHIN = 60.0  # seconds
STOPS_WITHIN = 60.0
# The facts of a data set are weeks old: by the default rules every line would become idle at once.
NEVER_IDLE = str(20 * 365 * 86_400)


class UnmeasuredError(Exception):
    """A row could not be measured; the message says why. The other rows continue."""


class Product:
    """`ledger serve` on a data directory, with the key of its API and the URL of its database.

    ``ledger`` is the command of another version, ``settings`` are variables of its environment.
    """

    def __init__(
        self,
        data_dir: Path,
        key: str,
        workers: int,
        log: Path,
        *,
        ledger: Sequence[str] = (LEDGER,),
        settings: Mapping[str, str] | None = None,
        role: str = "all",
    ) -> None:
        self.data_dir, self.key, self.ledger = data_dir, key, ledger
        self.port = limits.free_port()
        self.env = {
            "LEDGER_DATA_DIR": str(data_dir),
            "LEDGER_WEBHOOK_ALLOW_PRIVATE": "true",
            "LEDGER_IDLE_AFTER_AGENT_RUNTIME": NEVER_IDLE,
            "LEDGER_IDLE_AFTER_DEFAULT": NEVER_IDLE,
        } | dict(settings or {})
        self._command = [*ledger, "serve", "--port", str(self.port), "--workers", str(workers)]
        self._command += ["--role", role]
        self._log = log
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def database_url(self) -> str:
        """The URL of its PostgreSQL while the product serves."""
        return find_paths(self.data_dir).url()

    @property
    def pid(self) -> int:
        """The id of the serving process."""
        if self._server is None:
            raise UnmeasuredError("the server does not run")
        return self._server.pid

    def start(self) -> float:
        """Serve; return the seconds from the command to the line `Serving on`."""
        began = time.perf_counter()
        with self._log.open("wb") as output:
            self._server = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                env=os.environ | self.env,
                start_new_session=True,
            )
        while time.perf_counter() - began < STARTS_WITHIN and self._server.poll() is None:
            if b"Serving on" in self._log.read_bytes():
                return time.perf_counter() - began
            time.sleep(0.002)
        tail = self._log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"the ledger does not serve; its log ends with:\n{tail}")

    def stop(self) -> None:
        """Send SIGTERM; kill the whole process group if the server does not end."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    def get(self, path: str) -> bytes:
        """One encoded GET."""
        return loadgen.request("GET", path, authorization=f"Bearer {self.key}")

    def post(self, body: bytes, kind: str = ONE, path: str = "/v1/facts") -> bytes:
        key = f"Bearer {self.key}"
        return loadgen.request("POST", path, body, authorization=key, content_type=kind)

    def load(self, batches: Iterable[Sequence[bytes]]) -> None:
        """Post batches from a few clients at once; only a few batches are in memory at a time."""
        bodies = map(batch_of, batches)
        while posts := [self.post(body, MANY) for body in islice(bodies, HELD)]:
            shares = [share for n in range(BATCH_CLIENTS) if (share := posts[n::BATCH_CLIENTS])]
            result = loadgen.run_load(loadgen.Job(self.port, shares))
            if set(result.statuses) != {200}:
                raise UnmeasuredError(f"batches answered {result.statuses}: {result.refusal}")

    def command(self, *arguments: str, seconds: float = 60) -> str:
        """Run `ledger` on the same data; return its output."""
        return run_ledger(self.env, *arguments, seconds=seconds, ledger=self.ledger)


class Client:
    """A plain client for the few requests whose answers matter."""

    def __init__(self, product: Product) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", product.port, timeout=30)
        self._key = {"authorization": f"Bearer {product.key}"}

    def get(self, path: str) -> tuple[int, bytes]:
        """The answer's position and body."""
        return self._ask("GET", path, None, self._key)

    def post(self, body: bytes, kind: str = ONE) -> tuple[int, bytes]:
        """Post facts; the answer's position and body."""
        return self._ask("POST", "/v1/facts", body, {**self._key, "content-type": kind})

    def send(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a command; the answer's position and body."""
        return self._ask("POST", path, body, {**self._key, "content-type": "application/json"})

    def post_batch(self, facts: Sequence[bytes]) -> int:
        """Post a batch, require that each fact is recorded, return the position of the last one."""
        items = json.loads(self.post(batch_of(facts), MANY)[1])["data"]
        for item in items:
            if item["outcome"] != "recorded":
                raise UnmeasuredError(f"a fact of a batch was not recorded: {item}")
        return max(int(item["position"]) for item in items)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if not 200 <= answer.status < 300:
            text = content[:300].decode(errors="replace")
            raise UnmeasuredError(f"{method} {path} answered {answer.status}: {text}")
        return int(answer.headers["Ledger-Position"]), content


@contextlib.contextmanager
def serving(
    data_dir: Path,
    key: str,
    workers: int,
    log: Path,
    *,
    ledger: Sequence[str] = (LEDGER,),
    settings: Mapping[str, str] | None = None,
    role: str = "all",
) -> Iterator[Product]:
    """The product on a data directory, during the block."""
    product = Product(data_dir, key, workers, log, ledger=ledger, settings=settings, role=role)
    try:
        product.start()
        yield product
    finally:
        product.stop()


def copy_ledger(source: Path, target: Path) -> None:
    """Copy a data directory's database, master key and witness. No process may use the source."""
    here, there = find_paths(source), find_paths(target)
    there.make()
    subprocess.run(
        ["cp", "-a", "--reflink=auto", str(here.database), str(there.database)], check=True
    )
    if (key := source / "master.key").exists():  # otherwise the environment has the key
        shutil.copy(key, target / "master.key")
    if (sealed := source / "sealed").exists():  # without its witness a node signs nothing
        shutil.copytree(sealed, target / "sealed", dirs_exist_ok=True)


def run_ledger(
    env: dict[str, str],
    *arguments: str,
    seconds: float = 60,
    ledger: Sequence[str] = (LEDGER,),
) -> str:
    """The output of a `ledger` command. Raises UnmeasuredError with its last line if it fails."""
    named = f"ledger {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            [*ledger, *arguments],
            env=os.environ | env,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnmeasuredError(f"{named} was not done after {seconds:,.0f} s") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise UnmeasuredError(f"{named} ended with {done.returncode}: {lines[-1]}")
    return done.stdout
