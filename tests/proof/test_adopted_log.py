"""An adopted log, as its readers and operators see it: routes, the page, and commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.app.cli.arguments import main
from ledger.app.cli.seal import adopt_log as adopt_command
from ledger.app.cli.seal import show_status
from ledger.app.cli.verify import verify
from ledger.app.composition.database import ConfigurationError
from ledger.app.settings import Settings
from tests.proof.test_sealer import checkpoint_outside, go_back_to_501
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.ledger import Ledger
from tests.support.sealing import Node, adopt_log, seal
from tests.support.verifier import verifier
from tests.support.visitor import Visitor, visitor

REASON = "the standby was 2 s behind"


@pytest.fixture
def adopted(full: Ledger, folder: Path) -> Ledger:
    """A ledger that has lost 100 of 601 sealed events."""
    go_back_to_501(full.conninfo)
    seal(full.conninfo, folder)
    adopt_log(full.conninfo, folder, REASON)
    return full


@pytest.fixture
def edge_after(adopted: Ledger, folder: Path) -> Iterator[Edge]:
    """A service on the adopted ledger, whose log is sealed up to its end."""
    with edge_of(Settings(master_key=MASTER_KEY), adopted.conninfo) as edge:
        seal(adopted.conninfo, folder)
        yield edge


def test_the_keys_of_all_origins_are_listed_the_present_one_first(
    edge_after: Edge, folder: Path
) -> None:
    present, former = edge_after.get("/v1/log/key").text.splitlines()
    assert present.split("+")[0] == f"{former.split('+')[0]}/2"
    note = edge_after.get("/v1/log/checkpoint").text
    keys = edge_after.get("/v1/log/key").text
    size, root = verifier.open_checkpoint(note, keys)
    assert verifier.open_checkpoint(note, present) == (size, root)
    proof = edge_after.get(f"/v1/log/proof/consistency?from=501&to={size}").text
    old = edge_after.select("SELECT note FROM ledger.former_checkpoint WHERE size = 501")[0][0]
    assert verifier.proves_consistency(keys, old, note, proof)
    document = edge_after.get("/v1/log/proof?position=1").json()
    assert document["key"] == f"{present}\n"


def test_the_lost_checkpoint_is_proved_to_be_lost(edge_after: Edge, folder: Path) -> None:
    first = edge_after.select("SELECT note FROM ledger.checkpoint ORDER BY size LIMIT 1")[0][0]
    name, size, root, *_ = next(
        path.read_text().split("\n")
        for path in folder.glob("*.checkpoint")
        if not path.stem.endswith("-2")
    )
    assert size == "601"
    assert verifier.named_before(first) == f"after {name} {size} {root}"


def test_a_size_that_the_log_never_had_is_a_422_and_one_to_be_sealed_is_behind(
    edge_after: Edge, folder: Path
) -> None:
    ((events,),) = edge_after.select("SELECT count(*) FROM ledger.ledger_events")
    assert events < 601
    for path in ("consistency?from=501&to=601", "consistency?from=601&to=601",
                 "inclusion?position=1&size=601"):  # fmt: skip
        assert_problem(edge_after.get(f"/v1/log/proof/{path}"), 422, "invalid_request")
    edge_after.fresh()
    behind = f"/v1/log/proof/consistency?from=1&to={events + 1}"
    assert_problem(edge_after.get(behind), 503, "behind")
    seal(edge_after.conninfo, folder)
    assert edge_after.get(behind).status_code == 200


def test_the_page_shows_the_keys_the_nodes_and_the_origins_before(
    edge_after: Edge, folder: Path
) -> None:
    with Node(edge_after.conninfo, folder) as node:
        node.beat()
        page = visitor(edge_after, "read").get("/ui/integrity")
        assert page.words(".nodes tbody th") == [f"{node.watch.node_id} all"]
    keys = edge_after.get("/v1/log/key").text.strip()
    assert keys in [pre.get_text() for pre in page.all(".proof pre")]
    assert page.words(".origins td")[1:] == ["601", "501"]
    assert REASON not in page.text
    admin = Visitor(edge_after, edge_after.token("admin", organization_id=None))
    assert REASON in admin.get("/ui/integrity").words(".origins th")[-1]


def test_the_page_says_what_sealing_waits_for(full: Ledger, folder: Path, tmp_path: Path) -> None:
    assert seal(full.conninfo, tmp_path / "new" / "sealed") == 0
    with edge_of(Settings(master_key=MASTER_KEY), full.conninfo) as edge:
        page = visitor(edge, "read").get("/ui/integrity")
        assert page.words('[role="alert"] h2') == ["Sealing waits"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(master_key=MASTER_KEY, data_dir=tmp_path)


def test_the_commands_show_stop_adopt_and_verify(
    full: Ledger, folder: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings.witness_folder == folder
    with pytest.raises(ConfigurationError, match="Nothing is wrong"):
        adopt_command(settings, full.conninfo, REASON)
    name = checkpoint_outside(folder).read_text().split("\n")[0]
    go_back_to_501(full.conninfo)
    seal(full.conninfo, folder)
    assert show_status(settings, full.conninfo, as_json=False) == 0
    printed = capsys.readouterr().out
    assert "state\tstopped" in printed
    assert "601 events were sealed" in printed
    assert adopt_command(settings, full.conninfo, REASON) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{name}/2 begins with 501 sealed events."
    with Node(full.conninfo, folder, timeout=0.0) as node:
        node.beat()
        verify(settings, full.conninfo)
        assert "501 events in 3 checkpoints, 0 differences" in capsys.readouterr().out
        node.seal()
        assert show_status(settings, full.conninfo, as_json=False) == 0
        printed = capsys.readouterr().out
        assert node.watch.node_id in printed
    for text in (f"{name}/2", REASON, "signing", "501"):
        assert text in printed
    verify(settings, full.conninfo)
    printed = capsys.readouterr().out
    assert "501 events in 3 checkpoints, 0 differences" in printed
    assert f"{name} ended" in printed
    assert "100 of 601 sealed events lost: adopted by cli:" in printed


@pytest.mark.parametrize("arguments", [["adopt"], ["adopt", "--reason", " "],
                                       ["adopt", "--reason", "x" * 501], []])  # fmt: skip
def test_an_adoption_without_a_reason_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["seal", *arguments])
    assert ended.value.code == 2
