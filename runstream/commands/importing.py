"""``runstream import``: moving in from MLflow and other tools."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import click

from runstream.schemas.errors import ConfigError

if TYPE_CHECKING:
    from runstream.importing.sources import Source

_DEFAULT_SERVER = "http://127.0.0.1:5000"


class Bar:
    """A progress bar on standard error, one for each phase; nothing where that is no terminal but the phases' ends."""

    def __init__(self) -> None:
        self._phase = ""
        self._started = self._shown = 0.0

    def __call__(self, phase: str, done: int, whole: int, points: int) -> None:
        """``done`` of ``whole``, which is ``points`` points."""
        now = time.monotonic()
        if phase != self._phase:
            self.close()
            self._phase, self._started, self._shown = phase, now, 0.0
        if not sys.stderr.isatty() or (now - self._shown < 0.1 and done < whole):
            return
        self._shown = now
        share = min(done / whole, 1.0) if whole else 1.0
        speed = points / max(now - self._started, 1e-3)
        filled = round(30 * share)
        click.echo(
            f"\r{phase:<20} [{'#' * filled}{'-' * (30 - filled)}] {share:4.0%} {points:>14,} points {speed:>11,.0f}/s ",
            nl=False,
            err=True,
        )

    def close(self) -> None:
        """End the line."""
        if self._phase and sys.stderr.isatty():
            click.echo("", err=True)
        self._phase = ""


@click.command(name="import")
@click.argument("source")
@click.option(
    "--server",
    envvar="MLFLOW_TRACKING_URI",
    default=_DEFAULT_SERVER,
    show_default=True,
    help="The Runstream server, which keeps serving meanwhile.  [MLFLOW_TRACKING_URI]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of `runstream serve`, for databases; RUNSTREAM_* variables otherwise.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--experiment", help="Name of the experiment.  [default: the source's own, or its folder's]")
@click.option("--follow", is_flag=True, help="Go on bringing what is new, until interrupted.")
@click.option(
    "--every", "every_s", default=5.0, show_default=True, help="Seconds between looks with --follow."
)
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where it is noted what has been imported.  [default: below ~/.local/state]",
)
@click.option(
    "--artifacts/--no-artifacts",
    default=True,
    help="Bring the files of an mlruns folder's runs too.  [default: artifacts]",
)
@click.option(
    "--verify/--no-verify", default=True, help="Read everything back and compare.  [default: verify]"
)
def import_(
    source: str,
    server: str,
    data_dir: Path | None,
    dry_run: bool,
    experiment: str | None,
    follow: bool,
    every_s: float,
    ledger: Path | None,
    artifacts: bool,
    verify: bool,
) -> None:
    """Bring experiments, runs and points of other tools to a Runstream server.

    It may be interrupted and repeated, also after a crash: everything arrives once. The source is only read. At the
    end every point is read back from the server and compared with the source. Exit status 1 if something is missing.

    \b
    SOURCE is one of
      sqlite:///PATH, postgresql://...   the database of an MLflow server, adopted in place: start
                 Runstream with RUNSTREAM_METADATA naming it, then import it. Runs keep
                 their ids; their points move to ClickHouse while the server is serving.
      FOLDER mlruns, MLflow's file store: experiments, runs, params, tags, points, files, with
                 the runs' ids, times and status; what is deleted arrives deleted.
      FOLDER, or an event file, of TensorBoard: scalars, histograms' summaries, texts, hparams.
      FILE.parquet, .csv, .arrow, or a folder of them: a long table with the columns run, key,
                 step, timestamp and value; what `runstream export` writes, with its artifacts;
                 Neptune's exported Parquet; Lightning's metrics.csv; trainer_state.json

    \b
    Steps that are no whole numbers are multiplied by the least power of ten, up to a million,
    that makes all of a run's steps whole; the run's tag runstream.step_scale says by how much.
    Names that MLflow does not take are mapped, and listed.
    """  # noqa: D301 (\b is click's mark: keep the lines)
    if source.startswith(("sqlite:", "postgresql")):
        _adopt(source, server, data_dir, dry_run, verify)
    else:
        if source.startswith("file:"):
            source = url2pathname(urlsplit(source).path)
        _files(
            _source(Path(source), experiment, artifacts),
            source,
            server,
            ledger,
            dry_run,
            follow,
            every_s,
            verify,
        )


def _source(path: Path, experiment: str | None, artifacts: bool) -> Source:
    from runstream.importing import tables
    from runstream.importing.exported import Exported
    from runstream.importing.mlruns import Mlruns
    from runstream.importing.tensorboard import TensorBoard

    if not path.exists():
        raise ConfigError(f"there is no {path}")
    if Exported.recognizes(path):
        return Exported(path)
    if Mlruns.recognizes(path):
        return Mlruns(path, experiment, artifacts)
    if TensorBoard.recognizes(path):
        return TensorBoard(path, experiment)
    if tables.recognizes(path):
        return tables.Tables(path, experiment)
    raise ConfigError(
        f"{path} holds nothing that is known: neither event files nor tables, nor is it a file store of MLflow"
    )


def _files(
    source: Source,
    named: str,
    server: str,
    ledger_path: Path | None,
    dry_run: bool,
    follow: bool,
    every_s: float,
    verify: bool,
) -> None:
    from runstream.importing.engine import Import, plan
    from runstream.importing.ledger import Ledger, default_path
    from runstream.importing.target import Target
    from runstream.query.client.http import Http

    ledger = Ledger(ledger_path or default_path(str(Path(named).absolute()), server))
    if dry_run:
        for line in plan(source, ledger):
            click.echo(line)
        return
    bar = Bar()
    work = Import(source, Target(server), Http(server, timeout_s=600.0), ledger, verify)
    if follow:
        stopped = threading.Event()

        def stop(number: int, _: object) -> None:
            stopped.set()
            # Whoever asks again does not want to wait for the rest.
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        while not stopped.is_set():
            work.run(bar, growing=True)
            stopped.wait(every_s)
        bar.close()
    report = work.run(bar)
    bar.close()
    for line in report.lines():
        click.echo(line)
    if not report.complete:
        sys.exit(1)


def _adopt(source: str, server: str, data_dir: Path | None, dry_run: bool, verify: bool) -> None:
    from sqlalchemy import make_url

    from runstream.commands.doctor.report import settings
    from runstream.importing import adopt
    from runstream.importing.adoption import AdoptionState
    from runstream.importing.metrics_table import open_table
    from runstream.query.client.http import Http
    from runstream.roles.queues import open_producer

    _, storage = settings(data_dir)
    metadata = os.environ.get("RUNSTREAM_METADATA") or storage.metadata.get_secret_value()
    if _place(make_url(source)) != _place(make_url(metadata)):
        raise ConfigError(
            f"the server's database is {make_url(metadata).render_as_string()}, not {source}; to adopt it in place,"
            " start the server with RUNSTREAM_METADATA naming it"
        )
    table = open_table(metadata)
    if dry_run:
        moved, complete = AdoptionState(metadata).read()
        points = table.count()
        state = (
            "all of them moved" if complete else f"moved up to {moved:,} of {table.end():,} (rows or pages)"
        )
        click.echo(
            f"{points:,} points in MLflow's table, {state}; runs, params and all else stay where they are"
        )
        return

    async def work() -> bool:
        producer = await open_producer(storage)
        bar = Bar()
        try:
            started = time.monotonic()
            moved = await adopt.adopt(metadata, producer, bar)
            bar.close()
            took = time.monotonic() - started
            click.echo(f"moved {moved:,} points in {took:.1f} s ({moved / max(took, 1e-3):,.0f} points/s)")
            if not verify:
                return True
            report = await adopt.verify(metadata, producer, Http(server, timeout_s=600.0), bar)
            bar.close()
            for line in report.lines():
                click.echo(line)
            return report.complete
        finally:
            bar.close()
            await producer.close()

    if not asyncio.run(work()):
        sys.exit(1)


def _place(url: object) -> object:
    """What an address names, however it is written."""
    from sqlalchemy import URL

    assert isinstance(url, URL)
    if url.get_backend_name() == "sqlite":
        return Path(url.database or "").resolve()
    return url.get_backend_name(), url.host or "localhost", url.port or 5432, url.database
