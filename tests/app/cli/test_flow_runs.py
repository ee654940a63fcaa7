"""``ledger import --from prefect``: what a Prefect server says of its runs becomes runs.

``scripts/prefect_fixture.py`` made the fixtures by a real server. In the first one two flows still
run, and in the second one all but the waiting runs have ended.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from ledger.app.cli.arguments import main
from ledger.app.cli.files.map_file import FlowMap
from ledger.app.cli.files.prefect import FlowRuns, Item
from ledger.app.cli.line_parser import Chunk, fact_of
from ledger.app.settings import Settings
from ledger.engine.values.values import parse_instant
from ledger.features.facts.envelope import Fact, Rejected
from tests.app.cli.conftest import Ledger
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import LINE, activation, encode
from tests.support.views import until

FIXTURES = Path(__file__).parents[2] / "fixtures"
FILES = [str(FIXTURES / name) for name in ("prefect-1.jsonl", "prefect-2.jsonl")]
SETTINGS = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600)

STATUSES = {
    "SCHEDULED": "pending",
    "PENDING": "pending",
    "RUNNING": "running",
    "PAUSED": "running",
    "CANCELLING": "running",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "failed",
    "CANCELLED": "cancelled",
}


def objects(file: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(FILES[file]).read_text().splitlines()]


def flow_runs(file: int) -> list[dict[str, Any]]:
    return [found for found in objects(file) if "start_time" in found and "task_key" not in found]


def facts_of(run: dict[str, Any]) -> list[Fact]:
    """The facts of a flow run that is alone in its file."""
    form = FlowRuns(FlowMap(), LINE)
    with TemporaryFile() as file:
        file.write(encode(run))
        file.seek(0)
        found = [form.read(item) for _, items in form.chunks(file) for _, item in items]
    assert [each for each in found if isinstance(each, Rejected)] == []
    return found  # type: ignore[return-value]


def import_runs(ledger: Ledger, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, output and the last line on standard error of an import of flow runs."""
    done = ledger("import", *arguments, "--from", "prefect", stdin=stdin)
    return done.returncode, done.stdout, done.stderr.splitlines()[-1]


def listed_runs(edge: Edge) -> dict[str, dict[str, Any]]:
    """The ledger's runs by their external ids."""
    return {run["external_id"]: run for run in edge.data(f"/v1/execution/{LINE}/runs?limit=100")}


def await_statuses(edge: Edge, file: int) -> None:
    """Await that the views, which another process's events reach later, show a file's runs."""
    expected = {each["id"]: STATUSES[each["state_type"]] for each in flow_runs(file)}
    until(
        lambda: {name: run["status"] for name, run in listed_runs(edge).items()} == expected,
        f"the runs of {FILES[file]}",
    )


def test_flow_runs_become_runs_and_a_later_file_brings_only_what_is_new(
    ledger: Ledger, conninfo: str
) -> None:
    with edge_of(SETTINGS, conninfo) as edge:
        edge.accept(activation(id="begin"))
        for file, added, duplicates in ((0, 15, 0), (1, 3, 15)):
            summary = f"{added} recorded, {duplicates} duplicate, 0 refused"
            assert import_runs(ledger, FILES[file], "--line", LINE) == (0, "", summary)
            await_statuses(edge, file)
        summary = "0 recorded, 15 duplicate, 0 refused"
        assert import_runs(ledger, FILES[0], "--line", LINE) == (0, "", summary)
        runs = {name: edge.data(f"/v1/runs/{run['id']}") for name, run in listed_runs(edge).items()}
    for each in flow_runs(1):
        run = runs[each["id"]]
        begun = run["started_at"] or run["requested_at"]
        assert parse_instant(begun) == parse_instant(each["start_time"] or each["created"])
        assert run["completed_at"] is None or each["end_time"].startswith(run["completed_at"][:-1])
        crashed = {"code": "crashed", "message": None} if each["state_type"] == "CRASHED" else None
        assert run["error"] == crashed
    (child,) = (each["id"] for each in flow_runs(1) if each["parent_task_run_id"])
    parent = next(each["flow_run_id"] for each in objects(1) if "task_key" in each)
    assert runs[child]["parent_run_id"] == runs[parent]["id"]
    assert [run["parent_run_id"] for run in runs.values()].count(None) == len(runs) - 1


def test_a_flow_run_of_each_state_is_in_the_files() -> None:
    assert {run["state_type"] for file in (0, 1) for run in flow_runs(file)} == set(STATUSES)


def read_by_pipe(content: bytes) -> list[Chunk[Item]]:
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with open(reading, "rb") as pipe:
        return list(FlowRuns(FlowMap(), LINE).chunks(pipe))


def test_a_pipe_gives_the_same_facts_as_its_file() -> None:
    content = Path(FILES[0]).read_bytes()
    found = read_by_pipe(content)
    with open(FILES[0], "rb") as file:
        assert found == list(FlowRuns(FlowMap(), LINE).chunks(file))
    assert [(size, len(facts)) for size, facts in found] == [(len(content), 15)]
    assert len(read_by_pipe(encode(flow_runs(0)[0]))[0][1]) == 1


def test_a_chunk_has_no_more_facts_than_a_batch() -> None:
    ended = b'{"id": "a", "created": "", "state": {"type": "FAILED", "timestamp": ""}}\n'
    found = read_by_pipe(ended * 600)
    assert [(size, len(facts)) for size, facts in found] == [(0, 1000), (600 * len(ended), 200)]


def test_a_run_that_prefect_tries_again_has_begun() -> None:
    """Prefect schedules it, but the start that an earlier file had is its first one."""
    run = next(each for each in flow_runs(0) if each["state_type"] == "RUNNING")
    again = run | {"state": run["state"] | {"type": "SCHEDULED", "name": "AwaitingRetry"}}
    first, second = (facts_of(each) for each in (run, again))
    assert first == second
    assert [fact.type for fact in first] == ["run.started"]


def test_a_run_that_ended_before_it_started_was_requested() -> None:
    run = next(each for each in flow_runs(1) if each["state_type"] == "CRASHED")
    assert [each.type for each in facts_of(run | {"start_time": None})] == [
        "run.requested",
        "run.failed",
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{broken", "The line is no flow run: "),
        (b"[]", "The line is no flow run: "),
        (b'{"id": "a", "created": "2026-11-30T00:00:00Z"}', "missing required field `state`"),
        (
            b'{"id": "a", "created": "", "state": {"type": "NEW", "timestamp": ""}}',
            "Invalid enum value 'NEW'",
        ),
        (
            b'{"id": "a", "created": "", "state": {"type": "PENDING", "timestamp": ""}}',
            "/time: must be an RFC 3339 instant",
        ),
    ],
)
def test_a_line_that_is_no_flow_run_is_refused_by_its_number(
    ledger: Ledger, line: bytes, text: str
) -> None:
    stdin = b"\n" + line + b"\n" + Path(FILES[0]).read_bytes()
    code, output, _ = import_runs(ledger, "-", "--line", LINE, "--dry-run", stdin=stdin)
    (refused,) = (each for each in output.splitlines() if "{" not in each)
    assert (code, refused.startswith("line 2: invalid_request"), text in refused) == (1, True, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--line", LINE), "--line goes with --from prefect"),
        (("--from", "prefect"), "--from prefect needs --line, or a --map with [deployments]"),
        (("--from", "prefect", "--map", "map.toml"), "must have a LIN-YY-NNNNNN id"),
        (("--from", "dagster", "--line", LINE), "invalid choice: 'dagster'"),
    ],
)
def test_arguments_that_do_not_fit_are_a_usage_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.toml").write_text('[deployments]\nnightly = "LIN-1"\n')
    with pytest.raises(SystemExit) as ended:
        main(["import", "-", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


def test_the_deployments_of_a_map_have_lines_by_name_or_id(ledger: Ledger, tmp_path: Path) -> None:
    (run,) = (each for each in flow_runs(0) if each["deployment_id"])
    deployment = next(each for each in objects(0) if "paused" in each)
    for name in (deployment["name"], deployment["id"]):
        (tmp_path / "map.toml").write_text(f'[deployments]\n"{name}" = "{LINE}"\n')
        preview = ledger("import", FILES[0], "--from", "prefect", "--map", "map.toml", "--dry-run")
        (line,) = (each for each in preview.stdout.splitlines() if "{" in each)
        assert json.loads(line.split(": ", 1)[1])["data"] == {
            "external_id": run["id"],
            "service_line_id": LINE,
        }
        assert preview.stdout.count("The map has no line for the flow run's deployment") == 9
        assert (preview.returncode, "1 valid, 9 refused" in preview.stderr) == (1, True)


def test_a_name_that_two_deployments_bear_gives_no_line(ledger: Ledger, tmp_path: Path) -> None:
    deployment = next(each for each in objects(0) if "paused" in each)
    other = deployment | {"id": "another"}
    (tmp_path / "map.toml").write_text(f'[deployments]\nnightly = "{LINE}"\n')
    stdin = Path(FILES[0]).read_bytes() + json.dumps(other).encode()
    code, output, last = import_runs(ledger, "-", "--map", "map.toml", "--dry-run", stdin=stdin)
    assert (code, output.count("has no line"), last[:20]) == (1, 10, "0 valid, 10 refused;")
    # Its run is no run of --line either: which deployment it is, nobody knows.
    incomplete = ("-", "--map", "map.toml", "--line", LINE, "--dry-run")
    code, output, last = import_runs(ledger, *incomplete, stdin=stdin)
    assert (code, output.count("has no line"), last[:21]) == (1, 1, "14 valid, 1 refused; ")


def test_a_parent_comes_before_its_subflows_whatever_the_order_of_the_file() -> None:
    run = next(each for each in flow_runs(0) if each["state_type"] == "RUNNING")
    task = {"id": "task", "task_key": "work", "flow_run_id": "parent"}
    child = run | {"id": "child", "created": "2026-11-30T10:00:01Z", "parent_task_run_id": "task"}
    parent = run | {"id": "parent", "created": "2026-11-30T10:00:00Z"}
    content = b"\xef\xbb\xbf" + b"\n".join(map(encode, (child, parent, task)))
    ((_, items),) = read_by_pipe(content)
    found = [(number, fact_of(item[0])) for number, item in items if isinstance(item, tuple)]
    assert [(number, fact.sent.get("parent_external_id")) for number, fact in found] == [
        (2, None),
        (1, "parent"),
    ]


def test_a_run_that_was_set_to_completed_by_hand_has_begun_at_its_end() -> None:
    run = next(each for each in flow_runs(1) if each["state_type"] == "COMPLETED")
    assert [each.type for each in facts_of(run | {"start_time": None})] == [
        "run.started",
        "run.completed",
    ]
