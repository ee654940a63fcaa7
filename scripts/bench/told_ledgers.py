"""Ledgers with the data of `ledger demo`, each written by one version, and copies of them.

Besides the demo's data, a ledger has keys for its readers, an endpoint whose deliveries fail, an
erased run and refused commands.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from lag import await_sealed, await_views
from product import Client, Product, UnmeasuredError, copy_ledger, serving
from versions import HERE, OLD, Version

from ledger.engine.log.schema.migrate import MIGRATIONS
from ledger.engine.postgres.embedded import running
from ledger.engine.postgres.embedded.place import find_paths

_EVERY = (
    "read write service_lines:manage webhooks:manage watches:manage statements:issue audit:read"
)
_SETTINGS = {"LEDGER_WEBHOOK_ALLOW_PRIVATE": "true", "LEDGER_WEBHOOK_RETRY_SECONDS": "0.1,0.1"}
_ENDPOINT = b'{"url":"http://127.0.0.1:9/","event_types":["*"]}'
# The first migration makes these parts differently from commit e6d622b.
_SINCE = """
ALTER TABLE ledger.node DROP COLUMN IF EXISTS opens_marks;
ALTER TABLE ledger.lease ALTER organization_id DROP DEFAULT;
ALTER TABLE ledger.api_key ALTER prefix SET NOT NULL, ALTER created_by_type SET NOT NULL,
    ALTER created_by_id SET NOT NULL;
ALTER TABLE ledger.ledger_events DROP CONSTRAINT ledger_events_recorded_at_as_stored,
    ADD CONSTRAINT ledger_events_recorded_at_as_stored CHECK (
        extract(epoch FROM recorded_at) * 1000000
            = split_part(encode(substring(state FROM 1 FOR 200), 'escape'), ',', 6)::numeric
    )
"""
_REASON = b'{"reason":"Quote \\" tab \\t \xc3\xbc \xf0\x9f\x9a\x80"}'


@dataclass(frozen=True)
class StoryLedger:
    """A ledger that nobody writes to any more, and the keys for its readers."""

    data_dir: Path
    keys: dict[str, str]


def story_of(version: Version) -> StoryLedger:
    """The ledger that a version wrote; written now if it does not exist yet."""
    data_dir = OLD / f"story-{version.name}"
    marker = data_dir / "keys.json"
    if not marker.exists():
        for folder in (find_paths(data_dir).base, data_dir):
            shutil.rmtree(folder, ignore_errors=True)
        data_dir.mkdir(parents=True)
        began = time.perf_counter()
        log = data_dir / "ledger.log"
        with serving(data_dir, "", 1, log, ledger=version.ledger, settings=_SETTINGS) as product:
            keys = _tell(product)
        marker.write_text(json.dumps(keys))
        elapsed = time.perf_counter() - began
        print(f"The story was told to {version.name[:7]} in {elapsed:.0f} s.", file=sys.stderr)
    return StoryLedger(data_dir, json.loads(marker.read_text()))


def _tell(product: Product) -> dict[str, str]:
    product.command("demo", seconds=600)
    admin = product.key = product.command("keys", "create", "--admin").strip()
    lines = json.loads(Client(product).get("/v1/execution?limit=100")[1])["data"]
    ours, theirs = sorted({line["organization_id"] for line in lines})
    workspace = next(line["workspace_id"] for line in lines if line["organization_id"] == ours)

    def key(organization: str, permissions: str, *more: str) -> str:
        tenant = ("--organization", organization, *more)
        made = product.command("keys", "create", *tenant, "--permission", *permissions.split())
        return made.strip()

    keys = {
        "admin": admin,
        "organization": key(ours, f"{_EVERY} runs:erase"),
        "workspace": key(ours, _EVERY, "--workspace", workspace),
        "other": key(theirs, _EVERY),
        "writer": key(ours, "write"),
    }
    product.key = keys["organization"]
    client = Client(product)
    client.send("/v1/webhooks", _ENDPOINT)
    runs = json.loads(client.get("/v1/runs?status=failed")[1])["data"]
    client.send(f"/v1/runs/{runs[0]['id']}/erase", _REASON)
    for path in (f"/v1/runs/{runs[0]['id']}/erase", "/v1/execution/LIN-26-999999/resume"):
        with contextlib.suppress(UnmeasuredError):
            client.send(path, _REASON)
    product.key = admin
    await_views(product)
    await_sealed(product)
    return keys


@contextlib.contextmanager
def served_copy(story: StoryLedger, version: Version, folder: Path) -> Iterator[Product]:
    """A version that serves a copy of the ledger. No loop runs there, so nothing is recorded."""
    data_dir = folder / version.name[:7]
    copy_ledger(story.data_dir, data_dir)
    if version is HERE:
        adopt(data_dir)
        stopped = Product(data_dir, "", 1, data_dir.with_suffix(".log"))
        stopped.command("migrate")
        stopped.command("projections", "rebuild", seconds=600)
    key, log = story.keys["admin"], data_dir.with_suffix(".log")
    with serving(data_dir, key, 1, log, ledger=version.ledger, role="api") as product:
        yield product


def adopt(data_dir: Path) -> None:
    """Let this version open a ledger of a commit before 0.1.0, with a schema from other files.

    Otherwise a start would refuse its schema.
    """
    first, *_ = sorted(MIGRATIONS.iterdir(), key=lambda file: file.name)
    row = first.name, hashlib.sha256(first.read_bytes()).hexdigest()
    with running(data_dir, purpose="bench") as server, psycopg.connect(server.url) as connection:
        applied = connection.execute("SELECT name, checksum FROM ledger.migration").fetchall()
        if row not in applied:
            connection.execute("DELETE FROM ledger.migration")
            connection.execute("INSERT INTO ledger.migration (name, checksum) VALUES (%s, %s)", row)
            connection.execute(_SINCE)
