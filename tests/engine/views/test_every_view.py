"""Every view has its own test file, which uses each of the view's tables."""

from importlib import import_module

import pytest

from ledger.app.features import projections
from ledger.engine.postgres.schema.table import Table
from ledger.engine.views.contract import Projection
from tests.support.documents import ROOT


@pytest.mark.parametrize("view", projections(), ids=lambda view: view.name)
def test_every_view_has_a_test_file_that_covers_all_its_tables(view: Projection) -> None:
    """Without the file the import fails: write ``test_<name>_view.py``, events in, rows out."""
    feature = type(view).__module__.split(".")[1]
    tests = import_module(f"tests.{feature}.test_{view.name}_view")
    tested = {value.name for value in vars(tests).values() if isinstance(value, Table)}
    assert {table.name for table in view.tables} - tested == set(), "tables without a test"


@pytest.mark.parametrize("view", projections(), ids=lambda view: view.name)
def test_every_view_is_a_package_so_that_import_linter_sees_it(view: Projection) -> None:
    folder = type(view).__module__.removesuffix(".view").replace(".", "/")
    name = f"{folder}/__init__.py"
    assert (ROOT / name).is_file(), f"add the empty file {name}"
