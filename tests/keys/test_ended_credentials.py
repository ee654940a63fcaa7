"""A command by a credential that has ended a moment ago, and that a worker still remembers.

Each command is decided on what its key is under the append lock (contract, Access).
"""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from ledger.engine.http.replies import DisclosedLine
from ledger.engine.values.principal import COMMAND_LINE, Principal
from ledger.engine.writer.command import Command, OwnCommand, RefusedWrite
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.features.keys.model import Permission
from ledger.features.keys.tokens import create_token, hash_token
from ledger.features.lines.commands.lines import Pause, Resume
from ledger.features.runs.commands import EraseRun, Heartbeat
from ledger.features.runs.read_notes import NoteRead
from ledger.features.traces.commands import GiveParent
from ledger.features.webhooks.commands import CreateEndpoint, DeleteEndpoint, EndpointSettings
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.ledger import Item, Ledger

PERMISSIONS: tuple[Permission, ...] = (
    "read", "write", "service_lines:manage", "webhooks:manage", "runs:erase", "keys:manage",
)  # fmt: skip

NONE = timedelta(0)


def by_secret(key_id: str, token: str) -> Principal:
    """The key as a worker remembers it that looked the secret up."""
    return Principal(
        key_id, "api_key", frozenset(PERMISSIONS), ORGANIZATION, secret=hash_token(token)
    )


def create_key(by: Principal, token: str) -> CreateApiKey:
    return CreateApiKey(
        by,
        token,
        name=None,
        organization_id=ORGANIZATION,
        workspace_id=None,
        permissions=PERMISSIONS,
    )


def new_key(ledger: Ledger) -> Principal:
    token = create_token()
    item = ledger.execute(create_key(COMMAND_LINE, token))
    assert item.subject is not None
    return by_secret(item.subject, token)


def rotate(ledger: Ledger, key: Principal, by: Principal, grace: timedelta = NONE) -> Principal:
    """Replace the key's secret. Return the key as a worker sees it by the new secret."""
    token = create_token()
    command = RotateApiKey(key.id, by, token=token, grace=grace)
    assert ledger.execute(command).outcome == "recorded"
    return by_secret(key.id, token)


def create_endpoint(by: Principal) -> CreateEndpoint:
    return CreateEndpoint(
        by,
        None,
        secret="whsec_" + "A" * 32,
        settings=EndpointSettings(url="https://example.com/", event_types=("*",)),
        organization_id=None,
        workspace_id=None,
    )


COMMANDS: dict[str, Callable[[Principal, str, str, str], Command]] = {
    "key.create": lambda by, line, run, hook: create_key(by, create_token()),
    "key.update": lambda by, line, run, hook: UpdateApiKey(by.id, by, name="mine"),
    "key.rotate": lambda by, line, run, hook: RotateApiKey(
        by.id, by, token=create_token(), grace=NONE
    ),
    "key.revoke": lambda by, line, run, hook: RevokeApiKey(by.id, by),
    "execution.pause": lambda by, line, run, hook: Pause(line, by, reason=None),
    "execution.resume": lambda by, line, run, hook: Resume(line, by, reason=None),
    "run.erase": lambda by, line, run, hook: EraseRun(run, by, reason="because"),
    "webhook.create": lambda by, line, run, hook: create_endpoint(by),
    "webhook.delete": lambda by, line, run, hook: DeleteEndpoint(hook, by),
}


@pytest.mark.parametrize("action", COMMANDS)
def test_a_command_by_a_secret_that_was_replaced_is_a_401_and_is_audited(
    ledger: Ledger, action: str
) -> None:
    key = new_key(ledger)
    line = ledger.line()
    run = ledger.run(line)
    hook = ledger.execute(create_endpoint(key)).subject or ""
    rotate(ledger, key, COMMAND_LINE)
    before = ledger.head()
    item = ledger.execute(COMMANDS[action](key, line, run, hook))
    assert item.refusal == (401, "unauthorized")
    assert ledger.head() == before
    *_, refusal = ledger.events(f"REF-{key.id}")
    body = refusal["state"]["body"]
    assert (body["action"], body["code"]) == (action, "unauthorized")


@pytest.mark.parametrize("how", ["revoked", "expired"])
@pytest.mark.parametrize("action", COMMANDS)
def test_a_command_by_a_key_that_has_ended_is_a_403(ledger: Ledger, action: str, how: str) -> None:
    key = new_key(ledger)
    line = ledger.line()
    run = ledger.run(line)
    hook = ledger.execute(create_endpoint(key)).subject or ""
    if how == "revoked":
        ledger.execute(RevokeApiKey(key.id, COMMAND_LINE))
    else:
        end = ledger.clock() + timedelta(minutes=1)
        ledger.execute(UpdateApiKey(key.id, COMMAND_LINE, expires_at=end))
        ledger.clock.advance(minutes=1)
    before = ledger.head()
    item = ledger.execute(COMMANDS[action](key, line, run, hook))
    assert item.refusal == (403, "forbidden")
    assert ledger.head() == before


def test_the_holder_of_a_replaced_secret_gets_no_key_back(ledger: Ledger) -> None:
    stolen = new_key(ledger)
    owners = rotate(ledger, stolen, stolen)
    thief = RotateApiKey(stolen.id, stolen, token=create_token(), grace=NONE)
    assert ledger.execute(thief).refusal == (401, "unauthorized")
    assert ledger.execute(UpdateApiKey(owners.id, owners, name="owner's")).outcome == "recorded"


def test_a_replaced_secret_commands_until_its_grace_ends(ledger: Ledger) -> None:
    first = new_key(ledger)
    rotate(ledger, first, COMMAND_LINE, grace=timedelta(hours=2))
    assert rename(ledger, first).outcome == "recorded"
    ledger.clock.advance(hours=2, seconds=1)
    assert rename(ledger, first).refusal == (401, "unauthorized")


def test_a_rotation_ends_the_grace_of_older_secrets_too(ledger: Ledger) -> None:
    first = new_key(ledger)
    second = rotate(ledger, first, COMMAND_LINE, grace=timedelta(hours=2))
    third = rotate(ledger, first, COMMAND_LINE, grace=timedelta(hours=1))
    outcomes = [rename(ledger, key).outcome for key in (first, second, third)]
    assert outcomes == ["recorded"] * 3
    ledger.clock.advance(hours=1, seconds=1)
    outcomes = [rename(ledger, key).outcome for key in (first, second, third)]
    assert outcomes == ["refused", "refused", "recorded"]


def rename(ledger: Ledger, by: Principal) -> Item:
    return ledger.execute(UpdateApiKey(by.id, by, name="renamed"))


def test_a_replaced_secret_is_not_shown_what_its_key_was_answered_before(ledger: Ledger) -> None:
    key = new_key(ledger)
    again = IdempotencyKey(key.credential, f"/v1/keys/{key.id}/rotate", "rotate-1", b"same")
    command = RotateApiKey(key.id, key, token=create_token(), grace=NONE, idempotency=again)
    assert ledger.execute(command).outcome == "recorded"
    assert ledger.execute(command).refusal == (401, "unauthorized")


def test_only_these_commands_do_not_ask_whether_their_key_has_ended() -> None:
    def kinds(kind: type[OwnCommand]) -> Iterator[type[OwnCommand]]:
        for subclass in kind.__subclasses__():
            yield subclass
            yield from kinds(subclass)

    exempt = {kind for kind in kinds(OwnCommand) if not kind.needs_key}
    assert exempt == {RefusedWrite, NoteRead, Heartbeat, GiveParent}


def test_facts_and_notes_of_reads_do_not_ask_for_the_secret(ledger: Ledger) -> None:
    key = new_key(ledger)
    line = ledger.line()
    rotate(ledger, key, COMMAND_LINE)
    ledger.accept(fact("execution.checked_in", line, {"hours": 1}), by=key)
    # Data that a worker showed to the replaced secret are noted too.
    disclosed = DisclosedLine(line, ORGANIZATION, WORKSPACE)
    assert ledger.execute(NoteRead(key, None, disclosed, ledger.clock())).outcome == "recorded"
