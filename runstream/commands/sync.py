"""``runstream sync``: sends what clients have spooled."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from runstream.ingest.client.sync import RunState, Syncing, examine
from runstream.ingest.client.sync import sync as deliver


@click.command(name="sync")
@click.argument("spool", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--to", "uri", help="The server.  [default: the one that each run was logged to]")
@click.option("--follow", is_flag=True, help="Go on with what is being logged, until interrupted.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent; send nothing.")
@click.option("--status", is_flag=True, help="Say what is there, run by run; send nothing.")
@click.option("--keep", is_flag=True, help="Leave delivered files where they are.")
@click.option(
    "--give-up-after",
    "give_up_after_s",
    default=60.0,
    show_default=True,
    help="Seconds without any progress.",
)
def sync(
    spool: Path,
    uri: str | None,
    follow: bool,
    dry_run: bool,
    status: bool,
    keep: bool,
    give_up_after_s: float,
) -> None:
    """Send what trainings have left in a spool folder (RUNSTREAM_SPOOL).

    Any number of these may run, beside the trainings too, and may be interrupted and repeated: everything arrives
    once. Exit status 1 if something is left.
    """
    if dry_run or status:
        runs = examine(spool)
        for line in _table(runs) if status else _plan(runs, uri):
            click.echo(line)
        return
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    state = Syncing()
    with click.progressbar(
        length=1000, label="sending", file=sys.stderr, item_show_func=lambda text: text or ""
    ) as bar:
        shown = 0
        for state in deliver(
            spool,
            uri=uri,
            follow=follow,
            keep=keep,
            give_up_after_s=give_up_after_s,
            stop=lambda: bool(stopped),
        ):
            done = 1000 if not state.total_bytes else 1000 - 1000 * state.left_bytes // state.total_bytes
            bar.update(max(done - shown, 0), f"{state.left_bytes:,} bytes left")
            shown = max(done, shown)
    for line in _outcome(state, spool):
        click.echo(line)
    sys.exit(0 if state.complete else 1)


def _outcome(state: Syncing, spool: Path) -> Iterator[str]:
    for place, report in state.reports.items():
        yield f"{place}: {report.points:,} points and {report.records:,} records in {report.requests:,} requests"
        for what, reason in report.refused.items():
            yield f"  refused: {what}: {reason}"
    for trouble in state.troubles.values():
        if not trouble.startswith("the server refuses"):
            yield f"  {trouble}"
    if not state.reports:
        yield f"nothing to send in {spool}"
    elif state.left_bytes:
        yield f"{state.left_bytes:,} bytes are left in {spool}; run this again when the server can be reached"


def _plan(runs: list[RunState], uri: str | None) -> Iterator[str]:
    waiting = [run for run in runs if run.left_bytes or run.artifacts]
    for run in waiting:
        yield (
            f"run {run.run_id}: {run.left_bytes:,} bytes ({run.points:,} points) and {run.artifacts} artifacts"
            f" to {uri or run.uri}"
        )
    if not waiting:
        yield "nothing to send"


def _table(runs: list[RunState]) -> Iterator[str]:
    yield f"{'run':<34} {'status':<10} {'bytes':>14} {'left':>14} {'artifacts':>9}  server"
    for run in runs:
        note = " (being written)" if run.live else ""
        damaged = f" ({run.skipped_bytes} damaged bytes skipped)" if run.skipped_bytes else ""
        yield (
            f"{run.run_id:<34} {run.status or '-':<10} {run.bytes:>14,} {run.left_bytes:>14,}"
            f" {run.artifacts:>9}  {run.uri}{note}{damaged}"
        )
        for problem in run.problems:
            yield f"  {problem}"
