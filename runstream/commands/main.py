"""The ``runstream`` command."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import click
except ImportError:
    sys.exit("runstream: the command line needs the server extra: pip install 'runstream[server]'")

from runstream.schemas.errors import ConfigError, RunstreamError
from runstream.serve.lifeline import PARENT_VARIABLE, die_with_parent

_EXIT_CONFIG = 78
_Listen = Callable[[Callable[..., Any]], Callable[..., Any]]


class _Commands(click.Group):
    """Turns expected errors into one line on standard error and exit status 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "export", "import", "metrics", "sync"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "metrics":
            # Only here: it brings data frames along, which no server process needs.
            try:
                from runstream.commands.metrics import metrics
            except ImportError:
                return _without_notebook()

            return metrics
        if cmd_name == "import":
            _require("server", "clickhouse_connect", "httpx", "numpy", "pydantic_settings", "sqlalchemy")
            from runstream.commands.importing import import_

            return import_
        if cmd_name == "export":
            _require("notebook", "httpx", "numpy", "pyarrow")
            from runstream.commands.exporting import export

            return export
        if cmd_name == "sync":
            from runstream.commands.sync import sync

            return sync
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RunstreamError as error:
            click.echo(f"runstream: {error}", err=True)
            # The supervisor must know that starting again cannot help.
            config = isinstance(error, ConfigError) and PARENT_VARIABLE in os.environ
            sys.exit(_EXIT_CONFIG if config else 1)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="runstream")
def main() -> None:
    """Runstream: an MLflow tracking server whose metric plane is a stream.

    \b
    On one machine, everything included:
      runstream serve
      export MLFLOW_TRACKING_URI=http://127.0.0.1:5000

    \b
    In production, each role apart, set up by RUNSTREAM_* variables:
      runstream migrate | gateway | writer | query | tracking
    """  # noqa: D301 - click looks for the character itself


def _require(extra: str, *modules: str) -> None:
    if sys.version_info < (3, 11):
        here = ".".join(map(str, sys.version_info[:3]))
        raise ConfigError(
            f"servers and notebooks need Python 3.11 or newer, and this is {here}; here there is the client that"
            " spools, and `runstream sync`"
        )
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} is not installed; install Runstream with its {extra} extra:"
            f" pip install 'runstream[{extra}]'"
        )


def _without_notebook() -> click.Command:
    """The command ``metrics`` where what it needs is not installed: it says so."""

    @click.command("metrics", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1)
    def metrics(arguments: tuple[str, ...]) -> None:
        """Needs the notebook extra."""
        _require("notebook", "httpx", "numpy", "pandas", "pyarrow")

    return metrics


def _listen(default_port: int) -> _Listen:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        options = (
            click.option("--host", help="Address to listen on.  [default: 127.0.0.1]"),
            click.option("--port", type=int, help=f"Port to listen on.  [default: {default_port}]"),
            click.option("--fd", type=int, hidden=True, help="An inherited listening socket."),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _default_port(flags: dict[str, Any], port: int) -> dict[str, Any]:
    """Flags with the role's own default, where neither a flag nor the environment names a port."""
    given = flags["port"] is not None or "RUNSTREAM_PORT" in os.environ
    return flags if given else {**flags, "port": port}


@main.command()
@click.option(
    "--host", envvar="RUNSTREAM_HOST", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    envvar="RUNSTREAM_PORT",
    default=5000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runstream-data"),
    show_default=True,
    help="Folder for the log, the points, the metadata and the artifacts.",
)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Gateway processes."
)
def serve(host: str, port: int, data_dir: Path, workers: int) -> None:
    """Run the whole server on this machine, with embedded parts.

    Stop it with Ctrl-C: what was accepted is written first. Start it again on the same folder at any time, also
    after a crash.
    """
    _require("server", "aiohttp", "mlflow", "msgspec", "pydantic_settings")
    _require("embedded", "chdb")
    from runstream.process import logs
    from runstream.process.tls import certificate_of
    from runstream.serve import set as embedded
    from runstream.settings import GatewaySettings, StorageSettings, TrackingSettings, load

    # Before anything starts: a part that finds it out for itself would leave two messages, and log lines between.
    gateway_settings = load(GatewaySettings)
    certificate_of(gateway_settings.tls_cert_file, gateway_settings.tls_key_file)
    if load(TrackingSettings).basic_auth:
        from runstream.roles.tracking import check_basic_auth

        check_basic_auth()
    logs.configure("supervisor", load(StorageSettings).log_level)
    options = embedded.ServeOptions(
        host=host,
        port=port,
        data_dir=data_dir,
        workers=workers,
        announce=lambda line: click.echo(line),
        tls=gateway_settings.tls_cert_file is not None,
    )
    asyncio.run(embedded.serve(options))


@main.command()
@_listen(5000)
@click.option("--inner-fd", type=int, hidden=True, help="An inherited listening socket without TLS.")
def gateway(**flags: Any) -> None:
    """Run a gateway: what MLflow clients talk to. Start as many as you like."""
    die_with_parent()
    _require("server", "aiohttp", "msgspec", "pydantic_settings")
    from runstream.roles import gateway as role
    from runstream.settings import GatewaySettings, load

    role.run(load(GatewaySettings, **flags))


@main.command()
@_listen(5003)
def writer(**flags: Any) -> None:
    """Run a writer: takes points from the queue to ClickHouse. Start up to one per partition."""
    die_with_parent()
    _require("server", "aiohttp", "clickhouse_connect", "pydantic_settings")
    from runstream.roles import storage as role
    from runstream.settings import StorageSettings, load

    role.run_writer(load(StorageSettings, **_default_port(flags, 5003)))


@main.command()
@_listen(5002)
def query(**flags: Any) -> None:
    """Run a query service: answers metric reads from ClickHouse."""
    die_with_parent()
    _require("server", "aiohttp", "clickhouse_connect", "pydantic_settings")
    from runstream.roles import storage as role
    from runstream.settings import StorageSettings, load

    role.run_query(load(StorageSettings, **_default_port(flags, 5002)))


@main.command()
@_listen(5002)
def storage(**flags: Any) -> None:
    """Run writer and query service in one process, as an embedded ClickHouse (chdb://) needs."""
    die_with_parent()
    _require("server", "aiohttp", "clickhouse_connect", "pydantic_settings")
    from runstream.roles import storage as role
    from runstream.settings import StorageSettings, load

    role.run_storage(load(StorageSettings, **_default_port(flags, 5002)))


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 5001]")
@click.option("--fd", type=int, hidden=True, help="An inherited listening socket.")
def tracking(**flags: Any) -> None:
    """Run the MLflow server, with Runstream as its store of metrics."""
    die_with_parent()
    _require("server", "mlflow", "pydantic_settings")
    from runstream.roles import tracking as role
    from runstream.settings import TrackingSettings, load

    role.run(load(TrackingSettings, **flags))


@main.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@click.option("--status", is_flag=True, help="Show what is there.")
def migrate(dry_run: bool, status: bool) -> None:
    """Create or upgrade everything that the roles need: Kafka's topics, ClickHouse's tables, MLflow's database.

    Run it once before the roles start, and again with each release. Running it twice is harmless.
    """
    _require("server", "clickhouse_connect", "pydantic_settings")
    from runstream.commands import prepare
    from runstream.settings import StorageSettings, load

    settings = load(StorageSettings)
    work = prepare.report(settings) if status else prepare.prepare(settings, dry_run=dry_run)
    for line in work:
        click.echo(line)


@main.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of `runstream serve`, instead of RUNSTREAM_* variables.",
)
def doctor(data_dir: Path | None) -> None:
    """Try every configured part, and say what works, what does not and what to do.

    Writes, reads, lists and deletes probe objects; nothing of it stays. Exit status 1 if something does not work.
    """
    _require("server", "aiohttp", "clickhouse_connect", "obstore", "pydantic_settings", "sqlalchemy")
    from runstream.commands.doctor import report as checks

    found = asyncio.run(checks.checkup(*checks.settings(data_dir)))
    click.echo(checks.table(found))
    sys.exit(1 if any(check.ok is False for check in found) else 0)
