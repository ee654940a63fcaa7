"""Make ``tests/fixtures/prefect-*.jsonl``: the API's answers of a real Prefect server.

The script starts a server on loopback in a temporary folder, and runs flows of every ending. The
first file has the API's answers while two flows run; the second has those after they have ended.
Each line is one object of the API: a flow run, a task run of a subflow, or a deployment. Prefect is
no package of this project, so the script needs an environment of its own:

    python3 -m venv build/prefect && build/prefect/bin/pip install prefect==3.9.1
    build/prefect/bin/python scripts/prefect_fixture.py
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

PORT = 42_173
FIXTURES = Path(__file__).parents[1] / "tests/fixtures"
KINDS = {"deployments": {}, "task_runs": {}, "flow_runs": {"sort": "START_TIME_ASC"}}
"""The routes that list objects, and the body of each request."""
os.environ |= {
    "PREFECT_API_URL": f"http://127.0.0.1:{PORT}/api",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["PREFECT_HOME"] = home
        prefect = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--no-ui"]
        server = subprocess.Popen([*prefect, "--host", "127.0.0.1", "--port", str(PORT)])
        try:
            run_flows()
        finally:
            server.terminate()
            server.wait()


def run_flows() -> None:
    """Let runs reach every state, and write the API's answers about them, twice."""
    # Prefect reads its settings, which are made above, when it is imported.
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State, StateType
    from prefect.states import Scheduled

    tries = iter([RuntimeError("The mailbox is away."), None])

    @flow
    def fetch_invoices(month: str) -> int:
        return 14

    @flow(name="close month")
    def close_month(month: str) -> int:
        found = fetch_invoices(month)
        write("prefect-1.jsonl")
        return found

    @flow(retries=1)
    def send_reminders() -> None:
        if (error := next(tries)) is not None:
            raise error

    @flow
    def read_ledger() -> None:
        raise ValueError("The ledger has no line of that name.")

    @flow
    def end_process() -> None:
        raise SystemExit(3)

    with get_client(sync_client=True) as client:
        while client.api_healthcheck() is not None:
            pass
        deployment = client.create_deployment(
            client.create_flow(fetch_invoices), name="nightly", parameters={"month": "2026-11"}
        )
        later = Scheduled(scheduled_time=datetime(2027, 1, 31, 4, tzinfo=UTC))
        client.create_flow_run_from_deployment(deployment, state=later)
        reached = {
            state: client.create_flow_run(send_reminders)
            for state in ("CANCELLED", "PAUSED", "CANCELLING", "PENDING")
        }
        begun = State(type=StateType.RUNNING)
        for state, run in reached.items():
            if state in ("PAUSED", "CANCELLING"):
                client.set_flow_run_state(run.id, begun, force=True)
            client.set_flow_run_state(run.id, State(type=StateType(state)), force=True)
        send_reminders()
        for ends_badly in (read_ledger, end_process):
            with suppress(ValueError, SystemExit):
                ends_badly()
        close_month("2026-11")
        for state in ("PAUSED", "CANCELLING"):
            ended = State(type=StateType.CANCELLED)
            client.set_flow_run_state(reached[state].id, ended, force=True)
    write("prefect-2.jsonl")


def write(name: str) -> None:
    import httpx

    lines = [
        json.dumps(found)
        for kind, request in KINDS.items()
        for found in httpx.post(f"{os.environ['PREFECT_API_URL']}/{kind}/filter", json=request)
        .raise_for_status()
        .json()
    ]
    # The path of an error's stored result contains the temporary folder.
    text = "\n".join([*lines, ""]).replace(os.environ["PREFECT_HOME"], "/prefect")
    (FIXTURES / name).write_text(text)


if __name__ == "__main__":
    main()
