"""``runstream doctor``: what works is said to work, and what does not comes with what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import s3
from support.runstream_server import RunstreamServer


def doctor(*arguments: str, **environment: str) -> tuple[int, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RUNSTREAM_", "AWS_", "MLFLOW_"))
    }
    finished = subprocess.run(
        [sys.executable, "-m", "runstream", "doctor", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.returncode, finished.stdout + finished.stderr


def line(output: str, start: str) -> str:
    return next(one for one in output.splitlines() if one.startswith(start))


def test_beside_a_running_server(runstream_server: RunstreamServer) -> None:
    before = sorted(runstream_server.data_dir.joinpath("artifacts").rglob("*"))
    status, output = doctor("--data-dir", str(runstream_server.data_dir))
    assert status == 0, output
    assert " ok " in line(output, "queue: write")
    assert "not tried" in line(output, "clickhouse: open"), output
    assert " ok " in line(output, "metadata: tables")
    assert " ok " in line(output, "metadata: write")
    assert " ok " in line(output, "artifacts: delete")
    assert output.rstrip().endswith("Everything that was tried works.")
    after = sorted(runstream_server.data_dir.joinpath("artifacts").rglob("*"))
    assert [path for path in after if "doctor" in path.name] == []
    assert set(before) <= set(after)


def test_s3(tmp_path: Path, s3_server: s3.S3Server) -> None:
    access = s3_server.access
    environment = {**access.environment(), "RUNSTREAM_ARTIFACTS": f"s3://{access.bucket}/checked"}
    status, output = doctor("--data-dir", str(tmp_path), **environment)
    assert status == 0, output
    for step in (
        "open",
        "write small",
        "read small",
        "write large",
        "read large",
        "signed address",
        "list",
        "delete",
    ):
        assert " ok " in line(output, f"artifacts: {step}")
    assert s3_server.keys("checked") == []
    assert s3_server.unfinished_uploads() == []

    status, output = doctor(
        "--data-dir", str(tmp_path), **environment, RUNSTREAM_ARTIFACTS_PUBLIC_ENDPOINT="http://127.0.0.1:9"
    )
    assert status == 1
    assert "FAILED" in line(output, "artifacts: signed address")
    assert "RUNSTREAM_ARTIFACTS_DIRECT=false" in output

    status, output = doctor(
        "--data-dir", str(tmp_path), **{**environment, "AWS_SECRET_ACCESS_KEY": "an-entirely-wrong-secret"}
    )
    assert status == 1
    assert "FAILED" in line(output, "artifacts: write small")
    assert "rights to read, write, list and delete" in output
    for secret in ("an-entirely-wrong-secret", access.secret_key, "Signature="):
        assert secret not in output

    status, output = doctor(
        "--data-dir", str(tmp_path), **{**environment, "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9"}
    )
    assert status == 1
    assert "MLFLOW_S3_ENDPOINT_URL" in output


def test_parts_that_are_away_or_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {
        "RUNSTREAM_QUEUE": "kafka://127.0.0.1:9",
        "RUNSTREAM_CLICKHOUSE": "http://user:hunter22@127.0.0.1:9/metrics",
        "RUNSTREAM_METADATA": "postgresql://user:hunter22@127.0.0.1:9/mlflow",
        "RUNSTREAM_ARTIFACTS": f"file://{tmp_path}/file/below",
    }
    status, output = doctor(**environment)
    assert status == 1
    for start, advice in (
        ("queue: topics", "RUNSTREAM_KAFKA_*"),
        ("clickhouse: ", "RUNSTREAM_CLICKHOUSE"),
        ("metadata: open", "RUNSTREAM_METADATA"),
        ("artifacts: open", "folder"),
    ):
        assert any("FAILED" in one for one in output.splitlines() if one.startswith(start)), (start, output)
        assert advice in output
    assert "hunter22" not in output
    assert "Traceback" not in output


def test_wrong_settings_are_one_line() -> None:
    status, output = doctor(RUNSTREAM_ARTIFACTS="ftp://nowhere")
    assert status == 1
    assert output.startswith("runstream: ")
    assert output.count("\n") == 1


def test_embedded_parts_that_no_server_holds(tmp_path: Path) -> None:
    environment = {
        "RUNSTREAM_QUEUE": f"local://{tmp_path}/log",
        "RUNSTREAM_CLICKHOUSE": f"chdb://{tmp_path}/clickhouse",
        "RUNSTREAM_METADATA": f"sqlite:///{tmp_path}/mlflow.db",
        "RUNSTREAM_ARTIFACTS": f"file://{tmp_path}/artifacts",
    }
    subprocess.run(
        [sys.executable, "-m", "runstream", "migrate"],
        env={**os.environ, **environment},
        check=True,
        timeout=120,
    )
    status, output = doctor(**environment)
    assert status == 0, output
    assert "ClickHouse 2" in line(output, "clickhouse: ask")
    assert " ok " in line(output, "clickhouse: migrations")
    assert " ok " in line(output, "clickhouse: write, read, drop")
    assert " ok " in line(output, "metadata: write")


def test_asking_makes_nothing(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "runstream", *arguments],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    status = run("migrate", "--status").stdout
    assert "clickhouse: 0001 metrics: missing" in status
    assert "metadata: MLflow's tables are missing" in status
    assert "would apply 0001" in run("migrate", "--dry-run").stdout
    assert "not tried" in line(run("doctor").stdout, "artifacts: open")
    lost = run("doctor", "--data-dir", "nowhere")
    assert (lost.returncode, lost.stderr.count("\n")) == (1, 1)
    assert "no data folder" in lost.stderr
    assert list(tmp_path.iterdir()) == []
