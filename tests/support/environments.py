"""Environments of their own: an interpreter, the wheel of this tree, and what a training image has beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_WITHIN_S = 400.0


def uv(*arguments: str | Path) -> str:
    """``uv``, its output. Skips the test where there is none, and raises ``CalledProcessError`` for what it refuses."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("uv is not installed: `make install` brings it")
    done = subprocess.run(
        [program, *arguments], check=False, capture_output=True, text=True, timeout=_WITHIN_S
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
    return done.stdout


def built_wheel(folder: Path) -> Path:
    """The wheel of this tree."""
    uv("build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


class Environment:
    """A virtual environment with packages (``uv pip install`` arguments). Skips the test where this machine cannot get
    the interpreter (a version, as ``3.10``) or a package."""

    def __init__(self, folder: Path, python: str, *packages: str | Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        try:
            uv("venv", "--quiet", "--python", _interpreter(python), folder)
            self.install(*packages)
        except subprocess.CalledProcessError as error:
            pytest.skip(
                f"no Python {python} with {', '.join(map(str, packages))} here: {error.stderr[-300:]}"
            )

    def install(self, *packages: str | Path) -> None:
        """Add packages."""
        uv("pip", "install", "--quiet", "--python", self.python, *packages)

    def packages(self) -> set[str]:
        """What is installed, as ``name==version``."""
        listed = uv("pip", "list", "--format", "freeze", "--python", self.python)
        return {line.partition(" @ ")[0] for line in listed.splitlines()}

    def bytes(self) -> int:
        """What the packages take on the disk, in bytes; what Python compiles at first use aside."""
        (site,) = self.folder.glob("lib/python*/site-packages")
        return sum(
            path.stat().st_size for path in site.rglob("*") if path.is_file() and path.suffix != ".pyc"
        )


def _interpreter(python: str) -> str:
    """pyenv's, where there is one: its shims only pretend to be every version."""
    found = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{python}.*/bin/python"))
    return str(found[-1]) if found else python
