"""The one way to start a benchmark: ``python -m benchmarks [SUITE] [options of the suite]``.

Without a suite it is ``throughput``: every server, every load. ``python -m benchmarks list`` names them all.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_USUAL = "throughput"


def suites() -> dict[str, str]:
    """Names that can be started, with the module of each: what says ``python -m benchmarks NAME`` of itself."""
    files = (
        *sorted((_HERE / "suites").glob("*.py")),
        _HERE / "capacity" / "capacity.py",
        _HERE / "harness" / "figures.py",
    )
    return {file.stem: f"benchmarks.{file.parent.name}.{file.stem}" for file in files if _is_suite(file)}


def _is_suite(file: Path) -> bool:
    return file.stem == _USUAL or f"python -m benchmarks {file.stem}" in _docstring(file)


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


def main(argv: list[str]) -> None:
    """Start the suite in this process. What it returns is its exit status; an unknown name exits with 2."""
    known = suites()
    if argv[:1] == ["list"]:
        for name, module in known.items():
            summary = _docstring(_HERE.parent / f"{module.replace('.', '/')}.py").split("\n", 1)[0]
            print(f"{name:16} {summary}")
        return
    named = bool(argv) and not argv[0].startswith("-")
    name, options = (argv[0], argv[1:]) if named else (_USUAL, argv)
    if name not in known:
        print(f"benchmarks: unknown suite {name}; known are {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"python -m benchmarks {name}", *options]
    runpy.run_module(known[name], run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main(sys.argv[1:])
