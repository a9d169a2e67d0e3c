"""The tables that migrations make are the tables that the models say, from empty and back."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from typer.testing import CliRunner

import imagekin_migrations
from imagekin import errors
from imagekin.cli.app import app
from imagekin.database import engine, tables
from imagekin.database.engine import Database


def test_migrated_database_has_the_models_tables(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.Base.metadata) == []


def test_upgrade_twice_is_one_upgrade(database: Database) -> None:
    imagekin_migrations.upgrade(database)
    engine.wait_until_migrated(database, 0)


def test_downgrade_leaves_nothing(database: Database) -> None:
    imagekin_migrations.downgrade(database, "base")
    assert set(sa.inspect(database.engine).get_table_names()) <= {"alembic_version"}
    imagekin_migrations.upgrade(database)
    engine.wait_until_migrated(database, 0)


def test_an_unmigrated_database_is_refused_with_what_to_do(database_url: str) -> None:
    database = engine.Database(database_url)
    with pytest.raises(errors.NotReady, match="imagekin db upgrade"):
        engine.wait_until_migrated(database, 0)
    database.dispose()


def test_another_revision_is_refused(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(errors.NotReady, match="9999"):
        engine.wait_until_migrated(database, 0)


def test_an_unreachable_database_is_refused_with_the_reason(tmp_path: Path) -> None:
    database = engine.Database(f"sqlite:///{tmp_path / 'nowhere' / 'imagekin.db'}")
    with pytest.raises(errors.NotReady, match="cannot be reached"):
        engine.wait_until_migrated(database, 0)
    database.dispose()


def test_an_upgrade_waits_for_the_database(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    database = engine.Database(f"sqlite:///{folder / 'imagekin.db'}")
    with pytest.raises(errors.NotReady, match="cannot be reached"):
        imagekin_migrations.upgrade_when_reachable(database, 0)
    threading.Timer(0.2, folder.mkdir).start()
    imagekin_migrations.upgrade_when_reachable(database, 30)
    engine.wait_until_migrated(database, 0)
    database.dispose()


def test_the_code_needs_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", imagekin_migrations.__path__[0])
    assert ScriptDirectory.from_config(config).get_current_head() == engine.REVISION


def test_the_command_says_the_revision_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_DATA_DIR", str(tmp_path / "new"))
    done = CliRunner().invoke(app, ["db", "upgrade", "--json"])
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"revision": engine.REVISION})
