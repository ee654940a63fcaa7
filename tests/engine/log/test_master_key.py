"""A database belongs to one master key, and a key that is lost is not replaced by another one."""

from pathlib import Path

import pytest

from ledger.app.composition.database import ConfigurationError, prepare_database
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.databases import empty


def test_a_start_without_the_key_of_the_database_is_refused_and_makes_no_other_key(
    server: EmbeddedPostgres, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, master_key=None)
    key, copy = tmp_path / "master.key", tmp_path / "copy"
    with empty(server.url, "ledger_key") as conninfo:
        prepare_database(settings, conninfo)
        key.rename(copy)
        with pytest.raises(ConfigurationError, match="The master key is not known here"):
            prepare_database(settings, conninfo)
        assert not key.exists()
        copy.rename(key)
        prepare_database(settings, conninfo)


def test_another_key_is_refused_and_left_as_it_is(server: EmbeddedPostgres, tmp_path: Path) -> None:
    with empty(server.url, "ledger_key") as conninfo:
        prepare_database(Settings(data_dir=tmp_path / "own", master_key=None), conninfo)
        other = Settings(data_dir=tmp_path / "other", master_key="ab" * 32)
        with pytest.raises(ConfigurationError, match="is not the key of this database"):
            prepare_database(other, conninfo)
