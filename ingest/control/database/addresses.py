"""SQLAlchemy's URLs, as MLflow takes them, for the databases' own drivers."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from runstream.schemas.errors import ConfigError


def sqlite_path(uri: str) -> Path:
    """The file of a ``sqlite:///PATH``. Raises ``ConfigError`` for a database that has no file."""
    try:
        database = sa.make_url(uri).database
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"the metadata URI cannot be used: {error}") from error
    if not database or database == ":memory:":
        raise ConfigError("a SQLite database in memory cannot be shared by processes")
    return Path(database)


def postgres_conninfo(uri: str) -> str:
    """libpq's form of a ``postgresql[+driver]://…``."""
    try:
        url = sa.make_url(uri)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"the metadata URI cannot be used: {error}") from error
    return url.set(drivername="postgresql").render_as_string(hide_password=False)
