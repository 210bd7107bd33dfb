"""The schema's history, and how a database is brought up to date: Alembic, driven from here, without an ini file."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


class Migrations:
    """The migrations in a directory; ours, unless another is given. They run in the caller's transaction."""

    def __init__(self, location: Path = Path(__file__).parent) -> None:
        self._location = location

    def known(self) -> tuple[str, ...]:
        """Every schema revision, newest first."""
        return tuple(script.revision for script in ScriptDirectory(str(self._location)).walk_revisions())

    def current(self, connection: Connection) -> str | None:
        """The revision that a database has; None where it has none."""
        return MigrationContext.configure(connection).get_current_revision()

    def upgrade(self, connection: Connection, revision: str = "head") -> None:
        """Brings the schema up to `revision`."""
        command.upgrade(self._config(connection), revision)

    def downgrade(self, connection: Connection, revision: str) -> None:
        """Takes the schema back to `revision` (`base`: nothing left)."""
        command.downgrade(self._config(connection), revision)

    def _config(self, connection: Connection) -> Config:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(self._location).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        return config
