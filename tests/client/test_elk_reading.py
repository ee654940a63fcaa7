"""``elk`` shows answers: as tables on a terminal, as TSV in a pipe, as JSON and CSV."""

import csv
import io
import json
import re
import subprocess
from datetime import UTC, datetime

import pytest
from execution_ledger import Ledger

from tests.client.elk_program import Elk
from tests.client.support import Service

LONG = "A name of a line that no terminal of forty columns has room for"
ESCAPE = "\x1b[31m"


@pytest.fixture(scope="module")
def lines(service: Service) -> tuple[str, str]:
    """A blocked line with a long name, and a line with a run that has failed."""
    with Ledger(service.address, service.token, source="/story") as ledger:
        blocked = service.edge.fresh(name=LONG, project_tags=["story"])
        ledger.lines.block(
            blocked, blocker_id="POL-7", cause="policy_violation", reason="Not allowed"
        )
        line = service.edge.fresh(project_tags=["story"])
        ledger.runs.start(line, external_id="nightly")
        ledger.runs.fail(
            external_id="nightly", error={"code": "exit_3", "message": f"{ESCAPE}\u009b1m\u202e"}
        )
        ledger.lines.check_in(blocked, hours=1.5, id="hours")
    return blocked, line


def test_a_pipe_gets_a_row_of_tsv_for_each_line(elk: Elk, lines: tuple[str, str]) -> None:
    done = elk("lines", "--project", "story", "--state", "blocked,running")
    assert (done.code, done.err) == (0, "")
    blocked, running = sorted(done.rows)
    assert (blocked[0], blocked[1], blocked[3], blocked[4]) == (
        lines[0],
        "blocked",
        LONG,
        "policy_violation",
    )
    assert datetime.fromisoformat(blocked[2]) <= datetime.now(UTC)
    assert running[:2] == [lines[1], "running"]


def test_json_is_the_api_s_own_and_csv_has_a_header(elk: Elk, lines: tuple[str, str]) -> None:
    rows = json.loads(elk("lines", "--project", "story", "--json").out)
    answer = json.loads(elk("api", "get", "/v1/execution?project_tag=story").out)
    assert rows == answer["data"]
    table = list(csv.DictReader(io.StringIO(elk("lines", "--project", "story", "--csv").out)))
    assert {row["line"]: row["blocked_by"] for row in table} == {
        lines[0]: "policy_violation",
        lines[1]: "",
    }
    assert elk("lines", "--project", "none", "--json").out == "[]\n"
    both = elk("lines", "--json", "--csv")
    assert (both.code, "not both" in both.err) == (2, True)


@pytest.mark.parametrize("width", [80, 40, 14])
def test_a_terminal_of_any_width_shows_ids_whole(
    elk: Elk, lines: tuple[str, str], width: int
) -> None:
    done = elk.on_terminal("lines", "--project", "story", width=width)
    plain = re.sub(r"\x1b\[[\d;]*m", "", done.out)
    assert done.code == 0
    assert all(re.search(rf"^{line} ", plain, re.M) for line in lines)
    if width == 80:
        assert "BLOCKED BY" in plain
        assert re.search(r"\d+ s ago|\d+ min ago", plain)
        assert max(map(len, plain.splitlines())) <= width
        assert "\x1b[" in done.out


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_colours_stay_away_when_they_are_not_wanted(
    elk: Elk, lines: tuple[str, str], variable: dict[str, str]
) -> None:
    done = elk.on_terminal("line", lines[0], **variable)
    assert "POL-7" in done.out
    assert "\x1b" not in done.out


def test_control_characters_never_reach_the_reader(elk: Elk, lines: tuple[str, str]) -> None:
    (run,) = elk("runs", "--line", lines[1]).rows
    done = elk("run", "show", run[0])
    assert (done.code, run[1], run[4], run[8]) == (0, "failed", "exit_3", "nightly")
    assert "MESSAGE\t·[31m·1m·\n" in done.out
    data = elk("run", "show", run[0], "--json")
    assert not {"\x1b", "\u009b", "\u202e"} & set(done.out + data.out)


def test_a_line_tells_why_it_is_blocked_and_how_it_was_before(
    elk: Elk, lines: tuple[str, str], service: Service
) -> None:
    state, blocker = elk("why", lines[0]).rows
    assert state[:2] == ["blocked", lines[0]]
    assert [blocker[index] for index in (0, 1, 3, 4)] == [
        "blocker",
        "POL-7",
        "policy_violation",
        "Not allowed",
    ]
    assert json.loads(elk("why", lines[0], "--json").out)["blockers"][0]["id"] == "POL-7"
    started = json.loads(elk("line", lines[0], "--json").out)["started_at"]
    assert ["STATE", "blocked"] in elk("line", lines[0]).rows
    before = elk("line", lines[0], "--as-of", "1d")
    assert (before.code, "404 not_found" in before.err) == (3, True)
    assert started.endswith("Z")


def test_usage_of_a_month_and_changes_since_a_time(elk: Elk, lines: tuple[str, str]) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"
    usage = elk("usage", "--month", month, "--line", lines[0], "--csv")
    (row,) = csv.DictReader(io.StringIO(usage.out))
    assert (row["line"], row["hours"], row["name"]) == (lines[0], "1.5", LONG)
    assert elk("usage", "--month", "2026-13").code == 2
    changed = elk("changed", "--since", "1h", "--project", "story", "--json")
    assert {each["service_line_id"] for each in json.loads(changed.out)} == set(lines)
    wrong = elk("changed", "--since", "soon")
    assert (wrong.code, "'soon' is no instant" in wrong.err) == (2, True)
    assert elk("changed").code == 2


def test_lists_without_rows_and_lists_of_keys_are_shown(elk: Elk) -> None:
    assert elk("alerts").out == elk("statements").out == ""
    key = elk("whoami").rows[1][1]
    assert key in [row[0] for row in elk("keys").rows]


def test_an_export_is_the_file_of_the_api(elk: Elk, lines: tuple[str, str]) -> None:
    exported = elk("export", "events", "--line", lines[0], "--json").out.splitlines()
    assert [json.loads(row)["type"] for row in exported][-1] == "execution.checked_in"
    whole = elk.home / "events.csv"
    whole.parent.mkdir()
    assert elk("export", "events", "--line", lines[0], "-o", whole).code == 0
    assert len(list(csv.reader(whole.read_text().splitlines()))) == len(exported) + 1


def test_a_reader_that_has_enough_ends_the_command_quietly(
    elk: Elk, lines: tuple[str, str]
) -> None:
    listing = elk.begin("lines")
    assert listing.stdout is not None
    head = subprocess.run(["true"], stdin=listing.stdout, check=True)
    listing.stdout.close()
    _, errors = listing.communicate(timeout=20)
    assert (head.returncode, listing.returncode, errors) == (0, 0, "")
