"""The client that spools where things go wrong around it: ranks, workers, tokens, disks, folders, ends, all at once."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstream.ingest.client import process
from runstream.ingest.client.spool import SUFFIX, run_folder
from runstream.ingest.client.sync import sync as deliver
from runstream.schemas import frame
from support.full_disk import MIB, mounted
from support.mlflow_client import Rest
from support.runstream_server import RunstreamServer
from support.spooled import Training, await_that, check, end, server_run, stored, sync, sync_process, training
from support.token_proxy import TokenProxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def rest(runstream_server: RunstreamServer) -> Rest:
    return Rest(runstream_server.url)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where everything is taken and nothing answered."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen(64)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def status(rest: Rest, run_id: str) -> str:
    return str(server_run(rest, run_id)["info"]["status"])


def new_run(rest: Rest) -> str:
    return str(rest.post("api/2.0/mlflow/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"])


@pytest.mark.parametrize("ranks", [6, pytest.param(64, marks=pytest.mark.slow_suite)])
def test_ranks_log_into_one_run_from_files_of_their_own(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path, ranks: int
) -> None:
    run_id = new_run(rest)
    variables = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    running: list[Training] = []
    try:
        for rank in range(ranks):
            named = {variables[rank % 3]: str(rank), "KEY": str(rank), "MLFLOW_RUN_ID": run_id}
            running.append(Training("some", tmp_path, runstream_server.url, f"rank{rank}", **named))
        for one in running:
            one.wait(within_s=600.0)
    finally:
        for one in running:
            one.kill()
    sync(running[0].spool)
    check(rest, *running)
    assert {key for one in running for _, key, *_ in one.points()} == {
        f"loss/{rank}" for rank in range(ranks)
    }


def test_system_metrics_of_ranks_do_not_collide_and_tell_of_the_spool(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    run_id = new_run(rest)
    ranks = [
        Training(
            "monitored",
            tmp_path,
            runstream_server.url,
            f"rank{rank}",
            RANK=str(rank),
            GROUP_RANK="4",
            MLFLOW_RUN_ID=run_id,
        )
        for rank in range(2)
    ]
    try:
        for one in ranks:
            one.wait()
    finally:
        for one in ranks:
            one.kill()
    sync(ranks[0].spool)
    keys = {metric["key"] for metric in server_run(rest, run_id)["data"]["metrics"]}
    for rank in range(2):
        ours = {key.rpartition("/")[2] for key in keys if key.startswith(f"system/node4-rank{rank}/")}
        assert {"cpu_utilization_percentage", "spool_waiting_bytes", "spool_dropped_points"} <= ours
    assert all(key.startswith(("system/node4-rank", "loss")) for key in keys)


def test_workers_of_data_loaders(runstream_server: RunstreamServer, rest: Rest, tmp_path: Path) -> None:
    with training("workers", tmp_path, runstream_server.url) as one:
        one.wait()
    sync(one.spool)
    wanted = one.points()
    for ledger in tmp_path.glob("training.ledger.*"):
        wanted += Counter(tuple(json.loads(line)) for line in ledger.read_text().splitlines())
    assert Counter(key for _, key, *_ in wanted) == {"loss": 300, "worker1": 300}
    assert stored(rest, wanted) == wanted
    assert status(rest, one.run_id) == "FINISHED"


# --- credentials


def test_tokens_that_expire_stop_nothing(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    with TokenProxy(runstream_server.url, tmp_path / "token", every_s=2.0) as proxy:
        named = {"RUNSTREAM_TOKEN_FILE": str(proxy.file), "MLFLOW_TRACKING_TOKEN": proxy.lasting}
        with training("slow", tmp_path, proxy.url, **named) as one:
            one.wait()
        assert proxy.renewed > 2
        assert "not accepted" not in one.text(), "a fresh token was there each time"
        proxy.renewing = False
        proxy.spoil()
        with training("some", tmp_path, proxy.url, name="late", **named) as late:
            late.wait()
        assert "not accepted" in late.text(), late.text()
        assert "unreachable" not in late.text(), late.text()
        assert proxy.refused
        proxy.renewing = True
        proxy.renew()
        sync(one.spool, "--to", runstream_server.url)
    check(rest, one, late)


# --- disks and folders


def test_a_full_disk_below_the_spool_stops_no_training(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    with mounted(tmp_path / "spool", f"size={MIB // 4}") as is_mounted:
        if not is_mounted:
            pytest.skip("this user may not mount a disk")
        with training("endless", tmp_path, runstream_server.url, RUNSTREAM_OFFLINE="1") as one:
            # More than fits: 48 bytes for each.
            one.await_points(8_000)
            one.process.send_signal(signal.SIGTERM)
            one.wait(-signal.SIGTERM)
        assert "points cannot be written" in one.text() or "took only a part" in one.text()
        output = sync(one.spool, "--to", runstream_server.url, "--keep")
        points = {int(point["step"]) for point in rest.history(one.run_id, "loss")}
        assert 3_000 < len(points) < 8_000, output
        assert points <= {step for _, _, step, _ in one.points()} | {max(points)}


def test_a_folder_in_which_nothing_can_be_locked_or_renamed(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "no_locks.so"
    source = Path(__file__).parents[1] / "support" / "no_locks.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=120)
    with training("some", tmp_path, runstream_server.url, LD_PRELOAD=str(library)) as one:
        one.wait()
    offline = {"LD_PRELOAD": str(library), "RUNSTREAM_OFFLINE": "1"}
    with training("some", tmp_path, runstream_server.url, name="offline", **offline) as other:
        other.wait()
    sync(one.spool, LD_PRELOAD=str(library), RUNSTREAM_SPOOL=str(one.spool))
    check(rest, one, other)
    assert "Traceback" not in one.text() + other.text()


def test_a_file_that_ends_at_any_byte_is_sent_up_to_its_last_whole_frame(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    one_point = frame.points_encoder(1)
    ends: dict[int, int] = {}
    whole = b""

    def written(run_id: str) -> bytes:
        writer = {**process.identity(), "boot": "another"}
        about = {"run_id": run_id, "uri": runstream_server.url, **writer}
        return frame.encode_json(frame.FILE, about)

    def creation(run_id: str) -> bytes:
        body = {"run_id": run_id, "experiment_id": "0", "start_time": 1, "tags": []}
        return frame.encode_json(frame.CREATE, {"what": "run", "body": body})

    frames = [frame.encode_names([(0, "loss")])]
    frames += [one_point(step, 1_700_000_000_000 + step, step / 3, 0) for step in range(3)]
    frames += [frame.encode_json(frame.PARAMS, {"lr": "0.1"}), one_point(3, 1_700_000_000_003, 1.0, 0)]
    for data in frames:
        whole += data
        ends[len(whole)] = len(ends)
    ids = {}
    for cut in range(len(whole) + 1):
        run_id = ids[cut] = f"{cut:032x}"
        folder = run_folder(tmp_path, run_id)
        folder.mkdir(parents=True)
        (folder / f"host-another-1-0-00000{SUFFIX}").write_bytes(
            written(run_id) + creation(run_id) + whole[:cut]
        )
    states = list(deliver(tmp_path, give_up_after_s=120.0))
    assert states[-1].complete
    assert not any("cannot be" in trouble for trouble in states[-1].troubles.values())
    for cut, run_id in ids.items():
        there = max((number + 1 for place, number in ends.items() if place <= cut), default=0)
        steps = [0, 1, 2, None, 3][: max(there - 1, 0)]
        run = rest.get("api/2.0/mlflow/runs/get", run_id=run_id)["run"]["data"]
        found = [int(point["step"]) for point in rest.history(run_id, "loss")]
        assert found == [step for step in steps if step is not None], cut
        assert ("params" in run and bool(run["params"])) == (None in steps), cut


# --- the command


def test_what_a_person_at_a_terminal_sees(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    with training("some", tmp_path, runstream_server.url, RUNSTREAM_OFFLINE="1") as one:
        one.wait()
    planned = sync(one.spool, "--dry-run")
    assert f"run {one.run_id}" in planned
    assert "(200 points)" in planned
    listed = sync(one.spool, "--status")
    assert "FINISHED" in listed
    assert runstream_server.url in listed
    terminal, other_end = pty.openpty()
    try:
        command = [sys.executable, "-m", "runstream", "sync", str(one.spool)]
        done = subprocess.run(
            command, stderr=other_end, stdout=subprocess.PIPE, text=True, timeout=240, check=True
        )
        shown = os.read(terminal, 1 << 16).decode()
    finally:
        os.close(other_end)
        os.close(terminal)
    assert "sending" in shown
    assert "100%" in shown
    assert "0 bytes left" in shown
    assert "200 points" in done.stdout
    assert "nothing to send" in sync(one.spool, "--dry-run")
    check(rest, one)


# --- ends


def test_a_server_that_never_answers_holds_up_no_end(silent: str, tmp_path: Path) -> None:
    """Within some bound: without one it would be minutes."""
    quick = {"RUNSTREAM_FLUSH_TIMEOUT_S": "1"}
    with training("endless", tmp_path, silent, **quick) as one:
        one.await_points(200)
        one.process.send_signal(signal.SIGTERM)
        one.process.wait(25)
    assert "KILLED" in sync(one.spool, "--status")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGUSR1])
def test_a_requeued_job_goes_on_in_the_runs_that_its_key_names(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path, stop: signal.Signals
) -> None:
    # As SLURM tells of a preemption, and starts the same job again.
    job = {"SLURM_JOB_ID": "77", "RUNSTREAM_RUN_KEY": f"slurm-{stop}"}
    jobs: list[tuple[Training, str, str]] = []
    for attempt in range(2):
        with training(
            "keyed", tmp_path, runstream_server.url, name=f"try{attempt}", KEY=str(attempt), **job
        ) as one:
            one.await_points(50)
            outer, inner = (line for line in one.lines() if isinstance(line, str))
            if attempt:
                await_that(lambda: {status(rest, run_id) for run_id in jobs[0][1:]} == {"RUNNING"})
            one.process.send_signal(stop)
            one.wait(-stop)
        jobs.append((one, outer, inner))
    sync(jobs[0][0].spool)
    assert jobs[0][1:] == jobs[1][1:]
    assert jobs[0][1] != jobs[0][2]
    assert [status(rest, run_id) for run_id in jobs[0][1:]] == ["KILLED", "KILLED"]
    check(rest, *(one for one, *_ in jobs), unacknowledged=2)
    assert "refuse" not in jobs[1][0].text()


def test_the_status_of_a_job_that_went_on_is_not_overruled_by_what_was_sent_late(
    runstream_server: RunstreamServer, rest: Rest, tmp_path: Path
) -> None:
    run_id = new_run(rest)
    named = {"MLFLOW_RUN_ID": run_id}
    with training(
        "endless", tmp_path, runstream_server.url, name="first", RUNSTREAM_OFFLINE="1", **named
    ) as first:
        first.await_points(20)
        first.process.send_signal(signal.SIGTERM)
        first.wait(-signal.SIGTERM)
    kept = tmp_path / "kept"
    (tmp_path / "spool").rename(kept)
    with training("some", tmp_path, runstream_server.url, name="second", **named) as second:
        second.wait()
    assert status(rest, run_id) == "FINISHED"
    shutil.copytree(kept, tmp_path / "spool", dirs_exist_ok=True)
    sync(first.spool)
    check(rest, first, second, unacknowledged=1)
    assert status(rest, run_id) == "FINISHED"


def test_leaving_with_a_status(runstream_server: RunstreamServer, rest: Rest, tmp_path: Path) -> None:
    """As MLflow has it: FINISHED, for nobody has said otherwise; within the run, FAILED."""
    for what, wanted in (("leaves", "FINISHED"), ("leaves_within", "FAILED")):
        with training(what, tmp_path, runstream_server.url, name=what) as one:
            one.wait(1)
        check(rest, one)
        assert status(rest, one.run_id) == wanted


# --- everything at once


@pytest.mark.slow_suite
@pytest.mark.parametrize("seed", range(3))
def test_kill_9_of_everything_at_random_moments(tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    trainings: list[Training] = []
    with RunstreamServer(tmp_path / "data") as server:
        run_id = new_run(Rest(server.url))
        for turn in range(4):
            named = {"MLFLOW_RUN_ID": run_id, "RANK": str(turn)}
            with training("some", tmp_path, server.url, name=f"turn{turn}", **named) as one:
                trainings.append(one)
                beside = sync_process(one.spool, "--follow")
                try:
                    one.await_points(moments.randrange(5, 150))
                    for victim in moments.sample(("training", "sender", "server"), 3):
                        if victim == "server":
                            server.kill()
                        elif victim == "sender":
                            end(beside)
                        else:
                            one.kill()
                        threading.Event().wait(moments.uniform(0.0, 0.3))
                finally:
                    end(beside)
            crashed = sync_process(one.spool)
            threading.Event().wait(moments.uniform(0.2, 2.0))
            end(crashed)
            server.start()
        for _ in range(2):
            sync(trainings[0].spool)
        check(Rest(server.url), *trainings, unacknowledged=len(trainings))
