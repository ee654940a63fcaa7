"""``elk`` keeps a token to itself, and says in a line and a code what went wrong."""

import json
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from execution_ledger import Ledger
from execution_ledger.cli.commands import elk as root
from execution_ledger.cli.grammar import WORDS

from ledger.engine.values.values import Cause, ExecutionModel, ProductLine, RunStatus, State
from tests.client.elk_program import Elk
from tests.client.support import Reply, Request, Service, StandIn, problem
from tests.support.documents import CONTRACT
from tests.support.sealing import seal
from tests.support.service import ALL

KEYRING = """
import json, os, keyring.backend
class Kept(keyring.backend.KeyringBackend):
    priority = 1
    def _all(self):
        return json.load(open(PLACE)) if os.path.exists(PLACE) else {}
    def get_password(self, service, name):
        return self._all().get(name)
    def set_password(self, service, name, secret):
        json.dump(self._all() | {name: secret}, open(PLACE, "w"))
    def delete_password(self, service, name):
        json.dump({k: v for k, v in self._all().items() if k != name}, open(PLACE, "w"))
"""


def file_of(elk: Elk) -> Path:
    return elk.home / "execution-ledger/elk.json"


def test_a_token_from_a_pipe_is_checked_and_stored_for_its_owner_alone(
    anyone: Elk, service: Service
) -> None:
    assert anyone("whoami").code == 4
    done = anyone("login", service.address, stdin=f"{service.token}\n")
    fields = dict(done.rows)
    assert (done.code, fields["TYPE"]) == (0, "api_key")
    assert "read, " in fields["PERMISSIONS"]
    assert fields["ORGANIZATION"].startswith("ORG-")
    assert service.token not in done.out + done.err
    assert stat.S_IMODE(file_of(anyone).stat().st_mode) == 0o600
    assert anyone("whoami").rows == done.rows
    other = anyone.having(ELK_URL="http://127.0.0.1:9")
    assert (other("whoami").code, "no token" in other("whoami").err) == (4, True)
    assert anyone.having(ELK_TOKEN="elk_other")("whoami").code == 4
    assert anyone("logout").code == 0
    assert anyone("whoami").code == 4
    assert service.token not in file_of(anyone).read_text()


def test_a_token_is_read_without_an_echo(anyone: Elk, service: Service) -> None:
    done = anyone.on_terminal("login", service.address, typed=f"{service.token}\n")
    assert done.code == 0
    assert service.token not in done.out
    assert "Token: " in done.out
    assert "ORGANIZATION" in done.out
    assert anyone("whoami").code == 0


def test_the_keyring_has_the_token_where_there_is_one(
    anyone: Elk, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    (tmp_path / "kept_in_a_file.py").write_text(f"PLACE = {str(folder)!r}\n{KEYRING}")
    own = anyone.having(
        PYTHON_KEYRING_BACKEND="kept_in_a_file.Kept",
        PYTHONPATH=f"{anyone.variables()['PYTHONPATH']}:{tmp_path}",
    )

    def run(*words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        process = own.begin(*words, stdin=subprocess.PIPE)
        out, errors = process.communicate(stdin, timeout=20)
        return subprocess.CompletedProcess(words, process.returncode, out, errors)

    done = run("login", service.address, stdin=service.token)
    assert (done.returncode, "The token is in the keyring." in done.stderr) == (0, True)
    assert service.token not in file_of(own).read_text()
    assert service.token in folder.read_text()
    assert run("whoami").returncode == 0
    assert run("logout").returncode == 0
    assert service.token not in folder.read_text()


@pytest.mark.parametrize(
    "address", ["http://ledger.example.com", "https://a:b@example.com", "ftp://x", "https://x/?a"]
)
def test_an_address_that_would_show_the_token_is_refused(anyone: Elk, address: str) -> None:
    assert anyone("login", address, stdin="elk_secret").code == 2
    assert not file_of(anyone).exists()


def test_a_wrong_token_is_not_stored(anyone: Elk, service: Service) -> None:
    for token, code in (("elk_unknown", 4), ("", 2), ("two words", 2), ("ключ", 2)):
        assert anyone("login", service.address, stdin=token).code == code
    assert not file_of(anyone).exists()
    assert anyone("login", "--token", "elk_x", service.address).code == 2


def test_a_stored_token_follows_no_redirect_and_no_proxy(anyone: Elk) -> None:
    def redirect(request: Request) -> Reply:
        if request.path == "/v1/credential":
            return Reply(200, {"data": {"id": "KEY-26-000001", "version": "0.1.0"}})
        return Reply(307, None, {"location": elsewhere.address})

    with StandIn(lambda _: Reply(200)).serving() as elsewhere, StandIn(redirect).serving() as home:
        proxied = anyone.having(HTTP_PROXY=elsewhere.address, http_proxy=elsewhere.address)
        assert proxied("login", home.address, stdin="elk_secret").code == 0
        assert proxied("lines").code == 5
        assert elsewhere.requests == []
        assert {each.headers["authorization"] for each in home.requests} == {"Bearer elk_secret"}


def test_each_kind_of_failure_has_its_code_and_a_line(
    elk: Elk, anyone: Elk, service: Service
) -> None:
    line, reader = service.edge.fresh(), service.edge.token("read")
    cases = {
        1: elk("resume", line),
        2: elk("line"),
        3: elk("line", "LIN-26-999999"),
        4: elk.having(ELK_TOKEN=reader)("pause", line, "--reason", "Review"),
        5: elk.having(ELK_URL="http://127.0.0.1:9")("lines"),
    }
    assert {code: done.code for code, done in cases.items()} == {code: code for code in cases}
    assert all(done.out == "" for done in cases.values())
    assert "409 invalid_state: " in cases[1].err
    assert all(cases[code].err.count("\n") == 1 for code in (1, 3, 4, 5))
    wrong = elk("lines", "--state", "asleep")
    assert (wrong.code, "/state: " in wrong.err, wrong.err.count("\n")) == (1, True, 1)


def test_help_teaches_and_a_mistyped_command_is_guessed(anyone: Elk) -> None:
    assert "Did you mean one of: 'line', 'lines'" in anyone("liens").err
    commands = [[name] for name in root.commands] + [["run", "show"], ["webhooks", "listen"]]
    for words in commands:
        done = anyone(*words, "--help")
        assert done.code == 0
        assert (
            words in (["webhooks"], ["completion"], ["verify"])
            or f"\n    $ elk {' '.join(words)}" in done.out
        ), words
    assert anyone("--version").out.startswith("elk 0.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_words(anyone: Elk, shell: str) -> None:
    assert "_ELK_COMPLETE" in anyone("completion", shell).out
    variables = {
        "_ELK_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "elk lines --state blocked,pa",
        "COMP_CWORD": "3" if shell != "fish" else "blocked,pa",
    }
    assert "blocked,paused" in anyone.having(**variables)().out


def test_the_page_of_the_contract_has_each_command() -> None:
    rows = re.findall(r"^\| `elk (\w+)", (CONTRACT / "elk.md").read_text(), re.M)
    assert set(rows) == set(root.commands)


def test_the_words_that_shells_complete_are_those_of_the_service() -> None:
    fields = ("state", "cause", "model", "product-line", "run:status")
    enumerations = (State, Cause, ExecutionModel, ProductLine, RunStatus)
    for field, words in zip(fields, enumerations, strict=True):
        assert set(WORDS[field].split()) == set(get_args(words)), field


def test_an_older_service_differs_from_a_mistake(anyone: Elk) -> None:
    old = {
        "info": {"version": "0.0.9"},
        "paths": {"/v1/execution": {"get": {"parameters": [{"name": "limit"}]}}},
    }

    def answer(request: Request) -> Reply:
        if request.path == "/openapi.json":
            return Reply(200, old)
        if request.path == "/v1/execution?limit=1":
            return Reply(200, {"data": [], "meta": {"has_more": False}})
        is_list = request.path.startswith("/v1/execution?")
        return problem(422, "invalid_request") if is_list else problem(404, "not_found")

    with StandIn(answer).serving() as stand_in:
        done = anyone("login", stand_in.address, stdin="elk_old")
        assert (done.code, "(version 0.0.9) is too old" in done.err) == (0, True)
        assert anyone("lines", "--limit", 1).code == 0
        alerts, past = anyone("alerts"), anyone("lines", "--as-of", "1d")
        assert (alerts.code, "it has no GET /v1/alerts." in alerts.err) == (1, True)
        assert (past.code, "it has no parameter as_of there." in past.err) == (1, True)
        typed = anyone("api", "GET", "/v1/typo")
        assert (typed.code, "404 not_found" in typed.err) == (3, True)


def test_any_request_is_sent_to_the_ledger_alone(elk: Elk, service: Service) -> None:
    line = service.edge.fresh()
    view = elk("api", "GET", f"/v1/execution/{line}")
    assert json.loads(view.out)["data"]["service_line_id"] == line
    paused = elk(
        "api", "POST", f"/v1/execution/{line}/pause", "-d", "-", "--csv", stdin='{"reason":"x"}'
    )
    assert (paused.code, ",paused," in paused.out) == (0, True)
    for path in ("http://example.com/v1", "//example.com/v1", "v1/execution"):
        assert elk("api", "GET", path).code == 2


def test_proofs_checkpoints_and_statements_are_checked_offline(
    elk: Elk, service: Service, tmp_path: Path
) -> None:
    service.edge.fresh("capacity")
    whole = elk.having(ELK_TOKEN=service.edge.token(*ALL, "statements:issue"))
    with Ledger(service.address, service.edge.token(*ALL, "statements:issue")) as ledger:
        day = datetime.now(UTC) - timedelta(days=1)
        issued = ledger.statements.issue(from_=day, to=datetime.now(UTC))
    seal(service.edge.conninfo, tmp_path / "sealed")
    files = {
        "key": "/v1/log/key",
        "proof": "/v1/log/proof?position=1",
        "checkpoint": "/v1/log/checkpoint",
        "statement": f"/v1/statements/{issued.id}/bundle",
    }
    for name, path in files.items():
        (tmp_path / name).write_text(whole("api", "GET", path).out)
    checked = {
        name: anyone_verifies(elk, tmp_path, name) for name in ("proof", "checkpoint", "statement")
    }
    assert checked["proof"]["POSITION"] == "1"
    assert int(checked["checkpoint"]["SIZE"]) >= 2
    assert checked["statement"]["ID"] == issued.id
    altered = (tmp_path / "checkpoint").read_text().replace("\n", "\n1", 1)
    (tmp_path / "altered").write_text(altered)
    done = elk("verify", tmp_path / "altered", "--key", tmp_path / "key")
    assert (done.code, done.out) == (1, "")


def anyone_verifies(elk: Elk, folder: Path, name: str) -> dict[str, str]:
    """The result of a check without an address and a token."""
    offline = elk.having(ELK_URL=None, ELK_TOKEN=None)
    done = offline("verify", folder / name, "--key", folder / "key")
    assert done.code == 0, done.err
    return dict(done.rows)


def test_a_missing_extra_is_reported_in_a_line(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['click'] = None\n"
        "from execution_ledger.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=Elk(tmp_path).variables(),
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "elk: click is missing: pip install 'execution-ledger-client[cli]'\n"
    assert (done.returncode, done.stderr) == (2, expected)
