"""The folders below ``tests/unit`` are those of the sources: a module's tests stand where the module stands."""

from __future__ import annotations

from pathlib import Path

_UNIT = Path(__file__).resolve().parent
_ROOT = _UNIT.parents[1]
# The links below ``runstream`` lead to the same folders once more.
_LINKS = {"ingest", "query", "schemas"}


def test_tests_stand_in_folders_that_the_sources_have() -> None:
    rooms = {file.parent.relative_to(_UNIT) for file in _UNIT.rglob("test_*.py")} - {Path()}
    assert rooms
    astray = [str(room) for room in rooms if not (_ROOT / room).is_dir()]
    doubled = [str(room) for room in rooms if room.parts[0] == "runstream" and _LINKS & set(room.parts[1:2])]
    assert sorted(astray + doubled) == []


def test_a_test_named_after_a_module_elsewhere_in_its_package_stands_beside_it() -> None:
    astray = []
    for file in sorted(_UNIT.rglob("test_*.py")):
        room, module = file.parent.relative_to(_UNIT), f"{file.stem.removeprefix('test_')}.py"
        below = [] if room == Path() else list((_ROOT / room).rglob(module))
        if below and not (_ROOT / room / module).exists():
            astray.append(f"{file.relative_to(_UNIT)}: {below[0].relative_to(_ROOT)}")
    assert astray == []
