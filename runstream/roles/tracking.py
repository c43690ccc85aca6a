"""The tracking role: a stock MLflow server with Runstream's store plugin."""

from __future__ import annotations

import configparser
import importlib.util
import os
import signal
import sqlite3
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from runstream.ingest.artifacts.locations import mlflow_destination
from runstream.ingest.gateway.http.framing import MAX_HEAD_BYTES
from runstream.schemas.errors import ConfigError
from runstream.settings import TrackingSettings

# What the gateway takes, and what it adds.
_HEAD_BYTES = MAX_HEAD_BYTES + (16 << 10)


def command(settings: TrackingSettings) -> list[str]:
    """Arguments of ``mlflow`` for these settings."""
    metadata = settings.metadata.get_secret_value()
    arguments = [
        "server",
        "--backend-store-uri",
        metadata,
        "--artifacts-destination",
        _destination(settings),
        "--host",
        settings.host,
        "--port",
        str(settings.port),
        "--workers",
        "1",
        # Longer than the gateway keeps idle connections: the gateway must be the one that closes them.
        "--uvicorn-opts",
        f"--timeout-keep-alive 75 --log-level warning --h11-max-incomplete-event-size {_HEAD_BYTES}"
        + (f" --fd {settings.fd}" if settings.fd is not None else ""),
    ]
    if settings.allowed_hosts:
        arguments += ["--allowed-hosts", settings.allowed_hosts]
    if settings.cors_allowed_origins:
        arguments += ["--cors-allowed-origins", settings.cors_allowed_origins]
    if settings.static_prefix:
        arguments += ["--static-prefix", settings.static_prefix]
    if settings.basic_auth:
        arguments += ["--app-name", "basic-auth"]
    return arguments


def environment(settings: TrackingSettings) -> dict[str, str]:
    """Variables that switch the plugin on, and MLflow's extras off unless the user set them."""
    chosen = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_SECRETS_CACHE_TTL": "60",
        "MLFLOW_SERVER_SECRETS_CACHE_MAX_SIZE": "1000",
    }
    return {
        **{name: value for name, value in chosen.items() if name not in os.environ},
        **_server_variables(settings),
        "RUNSTREAM_TRACKING_PLUGIN": "1",
        "RUNSTREAM_GATEWAY_URL": settings.gateway,
        "RUNSTREAM_QUERY_URL": settings.query,
        "RUNSTREAM_INTERNAL_TOKEN": settings.internal_token.get_secret_value(),
    }


def sqlite_file(metadata: str) -> Path | None:
    """The file of an SQLAlchemy URL that names an SQLite database; ``None`` for another. Raises ``ConfigError``."""
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(metadata)
    except sqlalchemy.exc.ArgumentError as error:
        raise ConfigError("RUNSTREAM_METADATA is not a database's URL") from error
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def prepare_sqlite(path: Path) -> None:
    """Switch a SQLite database to write-ahead logging, where readers and the writer do not block each other."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives the files beside it the same rights; a file that is there keeps its own.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with sqlite3.connect(path, timeout=20) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"cannot open the metadata database {path}: {error}") from error


def prepare_metadata(metadata: str) -> None:
    """Create MLflow's tables, or upgrade them to the installed MLflow. Raises ``ConfigError``."""
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine_with_retry
    from mlflow.store.tracking.dbmodels.initial_models import Base

    file = sqlite_file(metadata)
    if file is not None:
        prepare_sqlite(file)
    try:
        engine = create_sqlalchemy_engine_with_retry(metadata)
        if not sqlalchemy.inspect(engine).has_table("experiments"):
            Base.metadata.create_all(engine)
        _upgrade_db(engine)
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"the metadata database cannot be prepared: {error}") from error


def metadata_revisions_at(metadata: str) -> tuple[str | None, str]:
    """``metadata_revisions`` of a database, which is not made if it is missing. Raises ``ConfigError``."""
    import sqlalchemy

    file = sqlite_file(metadata)
    if file is not None and not file.exists():
        return metadata_revisions(None)
    try:
        engine = sqlalchemy.create_engine(metadata)
        try:
            return metadata_revisions(engine)
        finally:
            engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise ConfigError(f"the metadata database cannot be asked: {error}") from error


def metadata_revisions(engine: Any | None) -> tuple[str | None, str]:
    """The revision of MLflow's tables behind an SQLAlchemy engine (``None``: there are none), and the one that the
    installed MLflow wants (its Alembic head)."""
    import sqlalchemy
    from mlflow.store.db.utils import _get_latest_schema_revision

    present: str | None = None
    if engine is not None and sqlalchemy.inspect(engine).has_table("alembic_version"):
        with engine.connect() as connection:
            present = connection.execute(
                sqlalchemy.text("SELECT version_num FROM alembic_version")
            ).scalar_one()
    return present, str(_get_latest_schema_revision())


def _destination(settings: TrackingSettings) -> str:
    return mlflow_destination(settings.artifacts, os.environ)


def _server_variables(settings: TrackingSettings) -> dict[str, str]:
    """What ``mlflow server`` hands to the uvicorn it starts; modules read some of it when they are imported.

    The names are MLflow's own (``mlflow.server``). Should they change, ``_become`` notices.
    """
    variables = {
        "_MLFLOW_SERVER_FILE_STORE": settings.metadata.get_secret_value(),
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.metadata.get_secret_value(),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": _destination(settings),
        "_MLFLOW_SGI_NAME": "uvicorn",
        "_MLFLOW_IN_JOB_EXECUTOR": "false",
    }
    if settings.static_prefix:
        variables["_MLFLOW_STATIC_PREFIX"] = settings.static_prefix
    if settings.allowed_hosts:
        variables["MLFLOW_SERVER_ALLOWED_HOSTS"] = settings.allowed_hosts
    if settings.cors_allowed_origins:
        variables["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = settings.cors_allowed_origins
    return variables


def run(settings: TrackingSettings) -> None:
    """Become the MLflow server; does not return.

    ``mlflow server`` prepares its database and then starts uvicorn as a child and waits. With jobs off there is
    nothing left for the waiting process to do, so this process becomes uvicorn instead: one process to watch and
    to stop, its memory held once, and its modules (seconds of work) imported once.
    """
    if not settings.internal_token.get_secret_value():
        raise ConfigError("RUNSTREAM_INTERNAL_TOKEN is not set; give every role the same secret")
    if settings.basic_auth:
        check_basic_auth()
    file = sqlite_file(settings.metadata.get_secret_value())
    if file is not None:
        prepare_sqlite(file)
    os.environ.update(environment(settings))
    # MLflow's to mend; it would be the first thing that everybody reads.
    warnings.filterwarnings("ignore", message="starlette.middleware.wsgi is deprecated")
    import mlflow.server
    from mlflow.cli import cli

    if os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"].lower() in ("false", "0"):
        mlflow.server._exec_cmd = _become
    cli.main(args=command(settings), prog_name="mlflow", standalone_mode=True)


def check_basic_auth() -> None:
    """Raise ``ConfigError`` where MLflow's ``basic-auth`` could not start."""
    if importlib.util.find_spec("flask_wtf") is None:
        raise ConfigError(
            "RUNSTREAM_BASIC_AUTH needs flask-wtf; install Runstream with its auth extra: runstream[auth]"
        )
    if not os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY"):
        raise ConfigError(
            "RUNSTREAM_BASIC_AUTH needs MLFLOW_FLASK_SERVER_SECRET_KEY, a secret that is the same for every replica"
        )
    if not _admin_password() and not _has_users():
        raise ConfigError(
            "RUNSTREAM_BASIC_AUTH needs a password for MLflow's first user, the administrator: set"
            " MLFLOW_AUTH_ADMIN_PASSWORD, or admin_password in the file that MLFLOW_AUTH_CONFIG_PATH names"
        )


def _auth_setting(name: str) -> str | None:
    """From MLflow's own file of its ``basic-auth``; read here, for MLflow's reader imports the whole server."""
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow is not None
    assert mlflow.origin is not None
    shipped = Path(mlflow.origin).parent / "server" / "auth" / "basic_auth.ini"
    config = configparser.ConfigParser()
    try:
        config.read(os.environ.get("MLFLOW_AUTH_CONFIG_PATH") or shipped)
    except configparser.Error as error:
        raise ConfigError(f"MLFLOW_AUTH_CONFIG_PATH: {' '.join(str(error).split())}") from error
    return config.get("mlflow", name, fallback=None)


def _admin_password() -> str | None:
    # MLflow's order (mlflow/server/auth/config.py): a variable that is set wins, also when it is empty.
    return os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", _auth_setting("admin_password"))


def _has_users() -> bool:
    """Whether MLflow's users may be there already: its password is for the first start alone. A database that is no
    file is left to MLflow, which says so itself."""
    url = _auth_setting("database_uri")
    file = sqlite_file(url) if url else None
    return file is None or file.exists()


def _become(arguments: Sequence[str], extra_env: Mapping[str, str] | None = None, **_: Any) -> NoReturn:
    wanted = dict(extra_env or {})
    # An id per start, which nothing reads before it is used.
    late = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
    in_place = set(late) <= {"_MLFLOW_SERVER_BOOT_ID"} and list(arguments[1:3]) == ["-m", "uvicorn"]
    os.environ.update(late)
    if in_place:
        import uvicorn

        # uvicorn finishes its requests, and then lets the signal do what it did before.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        uvicorn.main(args=list(arguments[3:]), prog_name="uvicorn", standalone_mode=True)
        sys.exit(0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(arguments[0], list(arguments), os.environ)
