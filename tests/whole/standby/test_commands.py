"""The commands that only read work on a standby; the others say that it takes no writes."""

import pytest

from tests.support.served import run_ledger
from tests.whole.standby.conftest import Cluster


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("verify",), "0 differences"),
        (("projections", "list"), "execution"),
        (("projections", "verify"), "0 differing"),
        (("keys", "list"), "KEY-"),
        (("seal", "status"), "signing"),
    ],
)
def test_a_command_that_reads_works_on_a_standby(
    cluster: Cluster, command: tuple[str, ...], message: str
) -> None:
    ended = run_ledger(cluster.reader.environment, *command)
    assert ended.returncode == 0, ended.stderr
    assert message in ended.stdout


@pytest.mark.parametrize(
    "command", [("keys", "create", "--admin"), ("migrate",), ("projections", "rebuild", "run")]
)
def test_a_command_that_writes_refuses_a_standby_in_one_line(
    cluster: Cluster, command: tuple[str, ...]
) -> None:
    ended = run_ledger(cluster.reader.environment, *command)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1), ended.stderr
    assert "read-only" in ended.stderr
