"""``runstream metrics``: a run's metrics in the terminal or in a file."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from typing import IO, Any

import click

from runstream.query.client import Connection, ServerError, connect
from runstream.query.client.terminal import text_plot
from runstream.schemas.errors import ConfigError
from runstream.schemas.mlflow.values import json_number

_TEXT_POINTS = 1_000


@click.command(name="metrics")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--key", "keys", multiple=True, help="A metric's name or a glob such as 'train/*'; repeatable.")
@click.option("--uri", help="The server.  [default: MLflow's tracking URI]")
@click.option("--format", "form", type=click.Choice(["csv", "json", "parquet"]), help="Points, in full.")
@click.option("--max-points", type=click.IntRange(4), help="At most so many points of each series.")
@click.option("--plot", is_flag=True, help="Draw: in the terminal, or into --output.")
@click.option("--follow", is_flag=True, help="Print new points as they land, until interrupted.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file; for a plot .png, .svg or .html.",
)
def metrics(
    runs: tuple[str, ...],
    keys: tuple[str, ...],
    uri: str | None,
    form: str | None,
    max_points: int | None,
    plot: bool,
    follow: bool,
    output: Path | None,
) -> None:
    """Show the metrics of runs: a summary, points in a format, a plot, or new points as they land."""
    if follow and (plot or form):
        raise click.UsageError("--follow goes with neither --plot nor --format")
    wanted = list(keys) or None
    try:
        with connect(uri) as connection:
            if follow:
                _follow(connection, list(runs), wanted)
            elif plot:
                _plot(connection, list(runs), wanted, max_points or _TEXT_POINTS, output)
            elif form or output:
                points = connection.get_metrics(list(runs), wanted, max_points=max_points, as_="arrow")
                _write(points, form or _format_of(output), output)
            else:
                _summarize(connection, list(runs), wanted)
    except (ServerError, ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


def _summarize(connection: Connection, runs: list[str], keys: list[str] | None) -> None:
    lines = connection.summary(runs, keys)
    if lines.empty:
        click.echo("no points")
        return
    columns = ["run_id", "key", "count", "last_step", "last", "min", "max", "mean", "nan_count"]
    click.echo(lines[columns].to_string(index=False))


def _follow(connection: Connection, runs: list[str], keys: list[str] | None) -> None:
    try:
        for point in connection.tail(runs, keys):
            click.echo(f"{point.run_id}\t{point.key}\t{point.step}\t{point.timestamp}\t{point.value!r}")
    except KeyboardInterrupt:
        pass


def _plot(
    connection: Connection, runs: list[str], keys: list[str] | None, max_points: int, output: Path | None
) -> None:
    frame = connection.get_metrics(runs, keys, max_points=max_points)
    if frame.empty:
        click.echo("no points")
    elif output is None:
        width = shutil.get_terminal_size().columns
        click.echo(text_plot(frame, width=width, color=sys.stdout.isatty()))
    elif output.suffix == ".html":
        svg = _svg(frame.plot())
        output.write_text(f"<!doctype html><meta charset=utf-8><title>{', '.join(runs)}</title>\n{svg}\n")
    else:
        frame.plot().savefig(output)


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def _format_of(output: Path | None) -> str:
    suffix = output.suffix.removeprefix(".") if output else "csv"
    if suffix not in ("csv", "json", "parquet"):
        raise ValueError(f"no format for {output}: name one with --format")
    return suffix


def _write(points: Any, form: str, output: Path | None) -> None:
    if output is None:
        _write_to(points, form, sys.stdout.buffer)
        return
    with output.open("wb") as file:
        _write_to(points, form, file)


def _write_to(points: Any, form: str, file: IO[bytes]) -> None:
    if form == "parquet":
        import pyarrow.parquet as pq

        pq.write_table(points, file)
        return
    frame = points.unify_dictionaries().to_pandas()
    if form == "csv":
        file.write(frame.to_csv(index=False).encode())
    else:
        # Numbers that JSON lacks become MLflow's strings.
        rows = frame.to_dict("records")
        for row in rows:
            row["value"] = json_number(row["value"])
        file.write(json.dumps(rows, separators=(",", ":")).encode())
