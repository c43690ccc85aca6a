"""``runstream export``: moving out."""

from __future__ import annotations

from pathlib import Path

import click

from runstream.commands.importing import Bar
from runstream.importing import exporting
from runstream.query.client.http import Http

_DEFAULT_SERVER = "http://127.0.0.1:5000"


@click.command(name="export")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--run", "runs", multiple=True, help="A run's id; repeatable.")
@click.option("--experiment", "experiments", multiple=True, help="All runs of an experiment; repeatable.")
@click.option(
    "--filter", "filter_", default="", help="MLflow's search syntax, such as \"params.lr = '0.1'\"."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "tensorboard"]),
    default="parquet",
    show_default=True,
    help="Parquet with metadata and artifacts, or event files with the points alone.",
)
@click.option(
    "--artifacts/--no-artifacts", default=True, help="Download the artifacts.  [default: artifacts]"
)
@click.option(
    "--server",
    envvar="MLFLOW_TRACKING_URI",
    default=_DEFAULT_SERVER,
    show_default=True,
    help="The Runstream server.  [MLFLOW_TRACKING_URI]",
)
def export(
    out: Path,
    runs: tuple[str, ...],
    experiments: tuple[str, ...],
    filter_: str,
    form: str,
    artifacts: bool,
    server: str,
) -> None:
    """Write runs into the folder OUT, which must be new or empty: all of them, or those that are named.

    As Parquet, points are one long table (run, key, step, timestamp in Unix milliseconds, value), bit for bit; runs,
    params and tags are lines of JSON, artifacts are files. `runstream import OUT` brings all of it to another server.
    """
    http = Http(server, timeout_s=600.0)
    found = exporting.find(http, exporting.Wanted(list(runs), list(experiments), filter_))
    bar = Bar()
    if form == "parquet":
        points = exporting.to_parquet(http, found, out, artifacts=artifacts, progress=bar)
    else:
        points = exporting.to_tensorboard(http, found, out, progress=bar)
    bar.close()
    click.echo(f"{len(found):,} runs and {points:,} points are in {out}")
