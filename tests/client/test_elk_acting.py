"""``elk`` changes things: holds, alerts, facts from a file, and runs of commands."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from execution_ledger import Ledger, types, verify

from tests.client.elk_program import Elk
from tests.client.support import Reply, Request, Service, StandIn, accept, problem
from tests.support.facts import fact


@pytest.fixture
def line(service: Service) -> str:
    return service.edge.fresh()


def runs_of(elk: Elk, line: str) -> list[dict[str, Any]]:
    """The runs of a line, with what only one run shows."""
    ids = [row["id"] for row in json.loads(elk("runs", "--line", line, "--json").out)]
    return [json.loads(elk("run", "show", run, "--json").out) for run in ids]


def test_a_line_is_paused_for_a_while_and_resumed(elk: Elk, line: str) -> None:
    paused = elk("pause", line, "--reason", "Review", "--until", "in 2h", "--json")
    (hold,) = json.loads(paused.out)["holds"]
    assert (hold["reason"], hold["until"] > hold["since"]) == ("Review", True)
    assert elk("pause", line, "--reason", "Review").code == 1
    assert ["STATE", "paused"] in elk("line", line).rows
    assert ["STATE", "running"] in elk("resume", line).rows
    assert elk("pause", line).code == 2


def test_unknown_alerts_are_refused_each_for_itself(elk: Elk) -> None:
    assert elk("ack", "ALR-26-000001").code == 3
    done = elk("ack", "ALR-26-000001", "ALR-26-000002", "--note", "On it")
    refused = [[f"ALR-26-00000{number}", "refused", "not_found"] for number in (1, 2)]
    assert (done.code, done.rows) == (1, refused)


def test_facts_of_a_file_are_judged_once_however_often_it_is_sent(
    elk: Elk, line: str, tmp_path: Path
) -> None:
    good = [fact("execution.checked_in", line, {"hours": hours}) for hours in (1, 2)]
    wrong = fact("execution.checked_in", line, {"hours": -1})
    file = tmp_path / "facts.jsonl"
    texts = [json.dumps(good[0]), "", "no JSON", json.dumps(wrong), json.dumps(good[1])]
    file.write_text("\n".join(texts))
    done = elk("send", file)
    assert done.code == 1
    assert [row[:2] for row in done.rows] == [
        ["1", "recorded"],
        ["3", "refused"],
        ["4", "refused"],
        ["5", "recorded"],
    ]
    assert [row[4] for row in done.rows] == ["", "not_json", "invalid_request", ""]
    assert "/data/hours: " in done.rows[2][5]
    assert done.err == "2 recorded, 0 duplicate, 2 refused\n"
    again = elk("send", "-", stdin=json.dumps(good))
    assert (again.code, [row[1] for row in again.rows]) == (0, ["duplicate", "duplicate"])
    assert elk("send", "-", stdin="[").code == 2
    assert elk("send", "-", stdin="").err == "0 recorded, 0 duplicate, 0 refused\n"


def test_a_terminal_shows_the_refused_facts_alone(elk: Elk, line: str, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([fact("execution.checked_in", line), fact("run.completed", line)]))
    done = elk.on_terminal("send", file, NO_COLOR="1")
    assert done.code == 1
    assert "1 recorded, 0 duplicate, 1 refused" in done.out
    assert [row.split()[:2] for row in done.out.splitlines()[1:2]] == [["2", "refused"]]


def test_a_command_s_run_ends_as_the_command_does(elk: Elk, line: str) -> None:
    script = "import sys; print('made'); print('spoilt', file=sys.stderr); sys.exit(3)"
    for more in ([], ["--stderr-tail"]):
        process = elk.begin("run", "--line", line, *more, "--", sys.executable, "-Sc", script)
        assert process.communicate(timeout=20) == ("made\n", "spoilt\n")
        assert process.returncode == 3
    assert elk("run", "--line", line, "--name", "fine", "--", "true").code == 0
    assert elk("run", "--line", line, "--", "no-such-program").code == 127
    assert elk("run", "--line", line, "--", "/").code == 126
    assert elk("run", "--line", line, "--", "sh", "-c", "kill -9 $$").code == 137
    killed, not_executable, missing, fine, written, silent = runs_of(elk, line)
    assert (fine["status"], fine["external_id"], fine["lease_seconds"]) == (
        "completed",
        "fine",
        300,
    )
    assert written["error"] == {"code": "exit_3", "message": "spoilt\n"}
    assert silent["error"]["code"] == "exit_3"
    assert not silent["error"]["message"]
    codes = [each["error"]["code"] for each in (missing, not_executable, killed)]
    assert codes == ["exit_127", "exit_126", "SIGKILL"]


def test_a_run_has_heartbeats_while_its_command_goes_on(elk: Elk) -> None:
    ours, theirs = os.pipe()

    def answer(request: Request) -> Reply:
        if not request.path.endswith("/heartbeat"):
            return accept(request)
        os.write(theirs, b"\n")  # the command has waited for it
        return Reply(204)

    with StandIn(answer).serving() as stand_in:
        own = elk.having(ELK_URL=stand_in.address)
        process = own.begin(
            "run", "--line", "LIN-26-000001", "--lease", "5", "--", "sh", "-c", "read _", stdin=ours
        )
        assert process.communicate(timeout=20) == ("", "")
    os.close(ours)
    os.close(theirs)
    kinds = [[each["type"] for each in r.json] if r.body else [] for r in stand_in.requests]
    assert kinds[:2] == [["run.started"], []]
    assert kinds[-1] == ["run.completed"]


def test_a_signal_is_passed_on_and_the_run_is_cancelled(elk: Elk, line: str) -> None:
    script = "trap 'echo ending; exit 9' TERM; echo ready; while :; do read _ || exit 1; done"
    ours, theirs = os.pipe()
    process = elk.begin("run", "--line", line, "--", "sh", "-c", script, stdin=ours)
    os.close(ours)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    os.write(theirs, b"\n")
    out, errors = process.communicate(timeout=20)
    os.close(theirs)
    assert (out, errors, process.returncode) == ("ending\n", "", 9)
    (run,) = runs_of(elk, line)
    assert run["status"] == "cancelled"


def test_a_command_runs_although_nothing_can_be_reported(elk: Elk, anyone: Elk, line: str) -> None:
    words = ("--", "sh", "-c", "exit 7")
    assert anyone("run", "--line", line, *words).code == 7
    assert elk("run", "--line", line, "--spool", "/dev/null", *words).code == 7
    refused = elk.begin("run", "--line", "LIN-26-999999", *words)
    assert "404 not_found" in refused.communicate(timeout=20)[1]
    assert refused.returncode == 7
    with StandIn(lambda _: problem(401, "unauthorized")).serving() as stand_in:
        away = elk.having(ELK_URL=stand_in.address)
        assert away("run", "--line", line, *words).code == 7
    elk("pause", line, "--reason", "Review")
    stopped = elk("run", "--line", line, "--stop-if-refused", *words)
    assert (stopped.code, "did not run" in stopped.err) == (1, True)


def test_events_are_followed_from_the_past_until_an_interrupt(
    elk: Elk, line: str, service: Service
) -> None:
    tail = elk.begin("tail", "--since", "1h", "--line", line)
    assert tail.stdout is not None
    first = tail.stdout.readline().split("\t")
    assert first[2:4] == ["execution.started", line]
    with Ledger(service.address, service.token) as ledger:
        ledger.lines.block(line, blocker_id="POL-7", cause="approval_gap", reason="a\tb")
    second = tail.stdout.readline().split("\t")
    assert second[2] == "execution.blocked"
    assert json.loads(second[6])["reason"] == "a\tb"
    tail.send_signal(signal.SIGINT)
    assert tail.communicate(timeout=20) == ("", "")
    assert tail.returncode == 130
    after = elk.begin("tail", "--since", first[1], "--line", line, "--json")
    assert after.stdout is not None
    assert json.loads(after.stdout.readline())["id"] == second[1]
    after.send_signal(signal.SIGINT)
    assert after.communicate(timeout=20)[0] == ""


def test_events_are_forwarded_signed_and_without_the_token(
    elk: Elk, line: str, service: Service
) -> None:
    with StandIn(lambda _: Reply(202)).serving() as receiver:
        listen = elk.begin("webhooks", "listen", "--forward-to", f"{receiver.address}/hook")
        assert listen.stdout is not None
        secret = listen.stdout.readline().removeprefix("secret\t").strip()
        with Ledger(service.address, service.token) as ledger:
            ledger.lines.check_in(line, hours=1.5)
        assert listen.stdout.readline().strip().split("\t")[1:] == [
            "execution.checked_in",
            line,
            "202",
        ]
        listen.send_signal(signal.SIGINT)
        listen.communicate(timeout=20)
    (request,) = receiver.requests
    event = verify.webhook(request.body, request.headers, secret)
    assert isinstance(event, types.ExecutionCheckedInEvent)
    assert (request.path, request.json["sequence"], event.payload.hours) == ("/hook", 1, 1.5)
    assert "trace_id" in request.json
    assert "authorization" not in request.headers
