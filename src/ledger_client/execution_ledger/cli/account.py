"""The credential (``login``, ``logout``, ``whoami``), ``api``, ``verify`` and ``completion``."""

import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import click
import msgspec
from click.shell_completion import get_completion_class

from execution_ledger import verify as checks
from execution_ledger._operations import LIST_EXECUTIONS, SHOW_CREDENTIAL
from execution_ledger._requests import Outgoing, request_of
from execution_ledger.cli import session
from execution_ledger.cli.asking import Connection, TooOld
from execution_ledger.cli.grammar import command
from execution_ledger.cli.showing import Show, clean, columns, json_text, say
from execution_ledger.errors import Forbidden, NotVerified

CREDENTIAL = columns(
    "URL=url ID=id TYPE=type NAME=name ORGANIZATION=organization_id WORKSPACE=workspace_id "
    "PERMISSIONS=permissions EXPIRES=expires_at VERSION=version"
)
PROVED = columns("ID=id TYPE=type POSITION=position SIZE=size KEY=key")


@command(
    "login",
    ["elk login https://ledger.example.com", "elk login localhost:8000 <token.txt"],
    [click.Argument(["url"])],
)
def login(show: Show, url: str) -> None:
    """Check a token, and store it for this address.

    The command asks for the token, or reads it from a pipe. It stores the token in the keyring,
    else in a file of yours. A stored token goes only to the address's own origin.
    """
    url = session.checked(url)
    if sys.stdin.isatty():
        token = click.prompt("Token", hide_input=True, err=True)
    else:
        token = sys.stdin.readline()
    settings = session.settings_for(url, token)
    credential = _credential(session.connection_to(settings))
    path = session.keep(url, settings.token)
    show.one(credential, CREDENTIAL)
    say(f"The token is in {path}.")


@command("logout", ["elk logout"], [click.Argument(["url"], required=False)], prints=False)
def logout(url: str | None) -> None:
    """Forget the token of the last login, or of an address."""
    forgotten = session.forget(None if url is None else session.checked(url))
    say("No token was kept." if forgotten is None else f"The token for {forgotten} is forgotten.")


@command("whoami", ["elk whoami", "elk whoami --json"])
def whoami(show: Show) -> None:
    """Show your credential: the tenant, the permissions, and the service's version."""
    show.one(_credential(session.connected()), CREDENTIAL)


def _credential(ledger: Connection) -> dict[str, Any]:
    """The credential as the service describes it. Raises Unauthorized."""
    row: dict[str, Any] = {"url": ledger.settings.url}
    try:
        return {**row, **ledger.ask(SHOW_CREDENTIAL)}
    except TooOld as error:
        say(str(error))
    try:
        ledger.attempt(request_of(LIST_EXECUTIONS, (), {"limit": 1}))
    except Forbidden:
        say("The token is known, but may not read.")
    return row


@command(
    "api",
    [
        "elk api GET '/v1/execution?state=blocked&limit=5'",
        "elk api GET /v1/log/key >log-key.txt",
        'echo \'{"reason": "Review"}\' | elk api POST /v1/execution/LIN-26-000042/pause -d -',
    ],
    [
        click.Argument(["method"]),
        click.Argument(["path"]),
        click.Option(
            ["-d", "--data", "body"], type=click.File("rb"), help="The body: a file, or -."
        ),
    ],
)
def api(show: Show, method: str, path: str, body: Any) -> None:
    """Send any request; write the answer as it is."""
    parts = urlsplit(path)
    if parts.scheme or parts.netloc or not parts.path.startswith("/"):
        raise click.UsageError("PATH begins with one /, such as /v1/execution.")
    content = None if body is None else body.read()
    headers = {} if content is None else {"content-type": "application/json"}
    if method.upper() not in ("GET", "HEAD", "DELETE"):
        headers["idempotency-key"] = uuid.uuid4().hex  # one key for all attempts
    query: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        query[name] = f"{query[name]},{value}" if name in query else value
    request = Outgoing(method.upper(), parts.path, query, headers, content)
    answer = session.connected().attempt(request, is_ours=False)
    is_json = "json" in answer.headers.get("content-type", "") and answer.content
    if show.form == "csv" and is_json:
        answered = msgspec.json.decode(answer.content)
        data = answered.get("data", answered)
        rows = data if isinstance(data, list) else data.get("rows", [data])
        show.rows(rows, {name: name for row in rows for name in row})
    elif show.form in ("table", "json") and is_json:
        click.echo(json_text(msgspec.json.decode(answer.content), 2))
    elif show.form == "table":
        for text in answer.text.splitlines():
            click.echo(clean(text))
    else:
        sys.stdout.buffer.write(answer.content)


@command(
    "verify",
    [
        "elk api GET /v1/log/key >log-key.txt    # once: keep it",
        "elk verify proof.json --key log-key.txt",
        "elk verify checkpoint.txt --key log-key.txt",
    ],
    [
        click.Argument(["file"], type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.Option(
            ["--key", "key_file"],
            required=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="The log's public key, as you keep it.",
        ),
    ],
)
def verify(show: Show, file: Path, key_file: Path) -> None:
    """Check a proof, a checkpoint or a statement's bundle offline. Exit code 1: not proved."""
    try:
        text, key = file.read_text(), key_file.read_text()
    except UnicodeDecodeError as error:
        raise NotVerified(f"the file is no text: {error.reason}") from error
    if not text.lstrip().startswith("{"):
        note = checks.checkpoint(text, key)
        row = {"type": "checkpoint", "id": note.origin, "size": note.size, "key": key.strip()}
        show.one(row, PROVED)
        return
    if '"document"' in text:
        event, document = checks.statement(text, key)
        row = _proved(event) | {"document": document}
        show.one(row, PROVED | columns("FROM=document.from TO=document.to"))
    else:
        show.one(_proved(checks.proof(text, key)), PROVED | columns("CONTENT=content"))


def _proved(event: checks.ProvedEvent) -> dict[str, Any]:
    row = {"id": event.leaf["stream"], "content": event.content, "key": event.key}
    return event.leaf | row


@command(
    "completion",
    [
        'eval "$(elk completion bash)"                # in ~/.bashrc; likewise zsh in ~/.zshrc',
        "elk completion fish >~/.config/fish/completions/elk.fish",
    ],
    [click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))],
    prints=False,
)
def completion(shell: str) -> None:
    """Write the completion of a shell."""
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if kind is not None:
        click.echo(kind(root, {}, "elk", "_ELK_COMPLETE").source())


COMMANDS = (login, logout, whoami, api, verify, completion)
