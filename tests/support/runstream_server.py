"""A real ``runstream serve`` in its own processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

_READY = re.compile(r"runstream ready at (https?://\S+)")
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 60.0


class RunstreamServer:
    """One embedded set over one folder. ``url`` is valid after ``start``.

    ``python`` and ``folder``: the interpreter, and the folder in which it is started.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 1,
        port: int = 0,
        environment: dict[str, str] | None = None,
        python: Path | str = sys.executable,
        folder: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.workers = workers
        self.port = port
        self.python = str(python)
        self.folder = folder
        self.url = ""
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunstreamServer:
        """Start and wait until it says that it is ready; later starts reuse the port."""
        output = self.log.open("ab")
        begin = output.tell()
        self._process = subprocess.Popen(
            [
                *(self.python, "-m", "runstream", "serve", "--port", str(self.port)),
                *("--data-dir", str(self.data_dir), "--workers", str(self.workers)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            cwd=self.folder,
        )
        output.close()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            text = self.log.read_bytes()[begin:].decode(errors="replace")
            found = _READY.search(text)
            if found:
                self.url = found[1]
                self.port = int(self.url.rsplit(":", 1)[1])
                return self
            if self._process.poll() is not None:
                raise AssertionError(
                    f"runstream serve ended with {self._process.returncode}:\n{text[-4000:]}"
                )
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"runstream serve is not ready:\n{self.text()[-4000:]}")

    def text(self) -> str:
        """Everything that the server has printed."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> dict[str, psutil.Process]:
        """The children by role: ``storage``, ``tracking``, ``gateway-0``, …, and ``supervisor``."""
        found = {"supervisor": psutil.Process(self.pid)}
        gateways = 0
        for child in psutil.Process(self.pid).children():
            try:
                line = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if "runstream gateway" in line:
                found[f"gateway-{gateways}"] = child
                gateways += 1
            elif "runstream storage" in line:
                found["storage"] = child
            elif "mlflow" in line or "runstream tracking" in line:
                found["tracking"] = child
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """SIGTERM (or this signal), and the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"runstream serve did not stop:\n{self.text()[-4000:]}") from None

    def kill(self) -> None:
        """kill -9 of every process at once."""
        if self._process is None or self._process.poll() is not None:
            return
        victims = [*psutil.Process(self.pid).children(recursive=True), psutil.Process(self.pid)]
        for victim in victims:
            try:
                victim.kill()
            except psutil.Error:
                pass
        self._process.wait(10)
        psutil.wait_procs(victims, timeout=10)

    def get(self, path: str) -> bytes:
        """The body of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            body: bytes = response.read()
            return body

    def __enter__(self) -> RunstreamServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            finally:
                self.kill()
