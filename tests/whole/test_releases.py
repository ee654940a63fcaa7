"""The versions and files of a release agree, and ``make dist`` stops where they do not."""

import json
import re
import socket
import tomllib
import zipfile
from pathlib import Path

import execution_ledger
import pytest

import ledger
from scripts.clients.shared import ROOT
from scripts.release.__main__ import NPM, PYTHON
from scripts.release.contents import check_contents, expected, packed
from scripts.release.trial import BEFORE_THE_SERVICE, PAGE

PROJECTS = [tomllib.loads((ROOT / each / "pyproject.toml").read_text()) for each in PYTHON]
PACKAGE = json.loads((ROOT / NPM / "package.json").read_text())
WHEEL = f"execution_ledger_client-{ledger.__version__}-py3-none-any.whl"


def test_the_packages_of_a_release_have_one_version_and_one_licence() -> None:
    versions = [project["project"]["version"] for project in PROJECTS] + [PACKAGE["version"]]
    assert {*versions, ledger.__version__, execution_ledger.__version__} == {ledger.__version__}
    licences = [project["project"]["license"] for project in PROJECTS] + [PACKAGE["license"]]
    assert set(licences) == {"Apache-2.0"}
    texts = [(ROOT / folder / "LICENSE").read_text() for folder in (*PYTHON, NPM)]
    assert len(texts) == 3 == texts.count(texts[0])


def test_the_tools_that_make_a_release_are_pinned_exactly() -> None:
    lines = (ROOT / "scripts/release/requirements.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z-]+==\d+(\.\d+)+", line)] == []
    versions = PACKAGE["devDependencies"].values()
    assert [each for each in versions if not re.fullmatch(r"\d+\.\d+\.\d+", each)] == []


def test_the_page_for_installing_names_the_files_of_this_version() -> None:
    files = re.findall(
        r"execution[_-]ledger\S*?-(\d[\d.]*\d)[-.](?:py3|tar|tgz|cdx)", PAGE.read_text()
    )
    assert len(files) == 7
    assert set(files) == {ledger.__version__}
    blocks = re.findall(r"^```console sketch\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert "service/bin/ledger --version" in blocks[BEFORE_THE_SERVICE - 1]


def test_make_makes_releases_and_tries_them_each_night() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^dist: .*\n\t.* -m scripts\.release$", makefile, re.M)
    assert re.search(r"^dist-check: .*\n\t.* -m scripts\.release --check$", makefile, re.M)
    assert re.search(r"^nightly:.* dist-check ", makefile, re.M)


@pytest.fixture
def files() -> dict[str, bytes]:
    """The files of the client's wheel, as they should be."""
    code = dict.fromkeys(expected(WHEEL, ROOT), b"")
    assert len(code) > 40
    named = WHEEL.partition("-py3")[0]
    return {name: b"" for name in code if "__pycache__" not in name} | {
        f"{named}.dist-info/licenses/LICENSE": b""
    }


def stop_of(files: dict[str, bytes], tmp_path: Path) -> str:
    """The message with which a wheel of these files stops the release, if it does."""
    source, dist = tmp_path / "source", tmp_path / "dist"
    dist.mkdir()
    for name in expected(WHEEL, ROOT):
        if "__pycache__" not in name:
            path = source / "src/ledger_client" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    with zipfile.ZipFile(dist / WHEEL, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    assert packed(dist / WHEEL) == files
    try:
        check_contents(dist, source)
    except SystemExit as stop:
        return str(stop)
    return ""


def test_a_package_with_the_files_of_the_commit_is_released(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    assert stop_of(files, tmp_path) == ""


@pytest.mark.parametrize(
    "name", ["tests/test_wheel.py", "execution_ledger/__pycache__/a.pyc", ".ledger/master.key"]
)
def test_a_file_that_does_not_belong_into_a_package_stops_the_release(
    files: dict[str, bytes], tmp_path: Path, name: str
) -> None:
    assert name in stop_of(files | {name: b""}, tmp_path)


def test_a_file_that_a_package_lacks_stops_the_release(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    del files["execution_ledger/py.typed"]
    assert "py.typed" in stop_of(files, tmp_path)


def test_a_package_without_its_licence_is_not_released(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    code = {name: data for name, data in files.items() if "LICENSE" not in name}
    assert "no licence" in stop_of(code, tmp_path)


@pytest.mark.parametrize("word", [str(ROOT), socket.gethostname()])
def test_a_package_that_names_the_machine_is_not_released(
    files: dict[str, bytes], tmp_path: Path, word: str
) -> None:
    named = {"execution_ledger/py.typed": f"made at {word}/x".encode()}
    assert "names this machine" in stop_of(files | named, tmp_path)
