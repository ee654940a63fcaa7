"""``ledger demo`` names the address of the running service, or says how to start a service.

The command once printed port 8000 whatever the service's port was: the link led to no service, or
to another program.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ledger.app.address import keeping_address, reachable, stored_address
from ledger.app.supervisor import address_of
from tests.app.cli.conftest import Ledger
from tests.support.data_dirs import MASTER_KEY
from tests.support.facts import activation
from tests.support.racing_writers import running_writer
from tests.support.served import Served, free_port, run_ledger
from tests.support.soak import repeated
from tests.support.views import report, until

Page = Callable[..., str]

NOT_RUNNING = "Page:  start the service with `ledger serve`; it prints the page's address"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def database(conninfo: str) -> dict[str, str]:
    """A database that outlives the services on it."""
    return {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}


def served_at(data_dir: Path, database: dict[str, str], host: str = "127.0.0.1") -> Served:
    return Served(data_dir, free_port(), workers=1, host=host, **database)


@pytest.fixture
def page(ledger: Ledger, conninfo: str, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Gives the last line of ``ledger demo``, run with a service's data directory.

    The database has a line, so that the demo does not load its story, which takes seconds.
    """
    with running_writer(conninfo) as writer:
        report(writer, activation())

    def run(served: Served, **environment: str) -> str:
        with monkeypatch.context() as variables:
            for name, value in {"LEDGER_DATA_DIR": str(served.data_dir), **environment}.items():
                variables.setenv(name, value)
            return last_line(ledger("demo"))

    return run


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]


def test_the_address_is_that_of_the_newest_running_service(
    data_dir: Path, database: dict[str, str], page: Page
) -> None:
    with served_at(data_dir, database) as served:
        assert last_line(run_ledger(served.environment, "demo")) == f"Page:  {served.address}/"
        assert page(served) == f"Page:  {served.address}/"
        elsewhere = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        assert page(served, **elsewhere, no_proxy="") == f"Page:  {served.address}/"
        assert page(served, LEDGER_DATA_DIR=str(data_dir.with_name("other"))) == NOT_RUNNING
        with served_at(data_dir, database) as second:
            assert page(served) == f"Page:  {second.address}/"
            served.process.terminate()
            served.process.wait()
            assert page(second) == f"Page:  {second.address}/", "the second one keeps its file"
    assert page(second) == NOT_RUNNING
    assert not list(data_dir.glob("serving*")), "the file is removed with the service"


def test_a_killed_services_address_is_not_claimed(
    data_dir: Path, database: dict[str, str], page: Page
) -> None:
    with served_at(data_dir, database) as served:
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
        until(lambda: not served.processes(), "the end of all the service's processes")
        assert (data_dir / "serving").exists()
        assert page(served) == NOT_RUNNING
        # Another service, with another data directory, takes the port.
        other = Served(data_dir.with_name("other"), served.port, workers=1, **database)
        with other:
            assert page(other) == f"Page:  {other.address}/"
            assert page(served) == NOT_RUNNING


@pytest.mark.parametrize(
    ("host", "url"),
    repeated([("::", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")]),
)
def test_a_wildcard_address_is_printed_as_the_loopback_address_with_the_prefix_of_all_paths(
    data_dir: Path, database: dict[str, str], page: Page, host: str, url: str
) -> None:
    prefix = {"LEDGER_ROOT_PATH": "/ledger/"}
    with served_at(data_dir, database | prefix, host) as served:
        assert f"Serving on {address_of(host, served.port)}/ledger\n" in served.output
        assert page(served, **prefix) == f"Page:  http://{url}:{served.port}/ledger/"


def test_a_service_runs_though_its_address_file_cannot_be_written(
    data_dir: Path, database: dict[str, str], page: Page
) -> None:
    (data_dir / "serving").mkdir(parents=True)
    with served_at(data_dir, database) as served:
        assert "address cannot be written" in served.output
        assert page(served) == NOT_RUNNING
    assert [path.name for path in data_dir.glob("serving*")] == ["serving"]


# Contents of the address file.


class _Stranger(BaseHTTPRequestHandler):
    """Another program, which answers every request."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "fine"}')

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_another_program_at_the_address_is_not_taken_for_the_service(
    tmp_path: Path, stranger: str
) -> None:
    with keeping_address(tmp_path, stranger):
        assert stored_address(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "http://127.0.0.1:1", "http://127.0.0.1:1\n{pid}", "http://127.0.0.1:1\n0\n",
        "http://127.0.0.1:1\n-1\n", "http://127.0.0.1:1\n9999999999\n", "file:///etc/hostname\n{pid}\n",
        "http://127.0.0.1\n{pid}\n", "http://[::1:80\n{pid}\n", "http://a:b\n{pid}\n",
        "http://127.0.0.1:99999\n{pid}\n", "http://\x1b[2J:80\n{pid}\n", "\udcff\n{pid}\n",
    ],
)  # fmt: skip
def test_a_malformed_address_file_names_no_address(tmp_path: Path, text: str) -> None:
    content = text.replace("{pid}", str(os.getpid())).encode("utf-8", "surrogateescape")
    (tmp_path / "serving").write_bytes(content)
    assert stored_address(tmp_path) is None


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://0.0.0.0:80", "http://127.0.0.1:80"),
        ("http://[::]:80", "http://[::1]:80"),
        ("http://[0:0:0:0:0:0:0:0]:80", "http://[::1]:80"),
        ("http://[fe80::1]:80", "http://[fe80::1]:80"),
        ("http://ledger.example:80", "http://ledger.example:80"),
    ],
)
def test_a_wildcard_address_is_reached_by_the_loopback_address(address: str, reached: str) -> None:
    assert reachable(address) == reached


def test_a_service_that_ends_leaves_another_services_file(tmp_path: Path) -> None:
    file = tmp_path / "serving"
    with keeping_address(tmp_path, "http://127.0.0.1:80"):
        file.write_text(f"http://127.0.0.1:80\n{os.getpid() + 1}\n")
    assert file.exists()
    with keeping_address(tmp_path, "http://127.0.0.1:80"):
        assert file.read_text() == f"http://127.0.0.1:80\n{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []
