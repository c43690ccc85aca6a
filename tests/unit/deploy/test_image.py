"""The image: linted, small, not root, and made of what the wheel is made of."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from runstream.commands.main import main
from support.deploy import DEPLOY, ROOT, SETTINGS, compose

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each instruction, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, _, rest = line.partition(" ")
        found.append((name, rest))
    return found


def project() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_linter_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--no-fail", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=True
    )
    assert not done.stdout


def test_two_stages_of_one_plain_base() -> None:
    bases = [rest.split(" AS ")[0] for name, rest in instructions() if name == "FROM"]
    assert bases == ["python:${PYTHON}-slim"] * 2
    minimum = re.search(r">=(\d+)\.(\d+)", project()["project"]["requires-python"])
    version = re.search(r"^ARG PYTHON=(\d+)\.(\d+)$", DOCKERFILE, re.MULTILINE)
    assert minimum
    assert version
    assert (int(version[1]), int(version[2])) >= (int(minimum[1]), int(minimum[2]))


def test_the_last_stage_is_not_root() -> None:
    last = instructions()[max(i for i, (name, _) in enumerate(instructions()) if name == "FROM") :]
    users = [rest for name, rest in last if name == "USER"]
    assert users == ["10001:10001"]
    assert not any(name == "RUN" for name, _ in last[[name for name, _ in last].index("USER") :])


def test_it_copies_what_the_wheel_is_made_of() -> None:
    copied = [rest.split()[:-1] for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for group in copied for source in group}
    assert set(packages()) <= sources
    text = (DEPLOY / "Dockerfile.dockerignore").read_text()
    ignored = [line for line in text.splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    assert {f"!{source}" for source in sources} <= set(ignored)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_its_commands_are_the_programs() -> None:
    found = dict(instructions())
    assert found["ENTRYPOINT"] == '["runstream"]'
    assert "runstream" in project()["project"]["scripts"]
    words = re.findall(r'"([^"]*)"', found["CMD"])
    main.commands[words[0]].make_context(words[0], words[1:])
    port = SETTINGS[words[0]].model_fields["port"].default
    assert found["EXPOSE"] == str(port)
    assert f"HEALTH_URL=http://127.0.0.1:{port}/health" in DOCKERFILE


def test_extras_exist() -> None:
    extras = project()["project"]["optional-dependencies"]
    default = re.search(r"^ARG EXTRAS=([\w,]+)$", DOCKERFILE, re.MULTILINE)
    example = re.search(r"--build-arg EXTRAS=([\w,]+)", DOCKERFILE)
    assert default
    assert example
    assert {*default[1].split(","), *example[1].split(","), "gcs", "azure"} <= set(extras)


def test_compose_builds_it() -> None:
    for service in compose()["services"].values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).read_text() == DOCKERFILE


def test_the_health_check_works(runstream_url: str) -> None:
    check = dict(instructions())["HEALTHCHECK"]
    code = re.findall(r'"([^"]*)"', check)[2]
    for path, status in (("/health", 0), ("/no-such-page", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"HEALTH_URL": runstream_url + path},
            capture_output=True,
            check=False,
        )
        assert done.returncode == status, done.stderr


def test_extras_hold_all_that_the_sources_import() -> None:
    tables = project()["project"]
    extras = tables["optional-dependencies"]
    wanted = _closure([*tables["dependencies"], *extras["server"], *extras["embedded"], *extras["s3"]])
    distributions = importlib.metadata.packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {module}"
        for package in packages()
        for path in (ROOT / package).rglob("*.py")
        # What notebooks may have besides is their own choice.
        if "client" not in path.parts
        for module in _imported(path) - sys.stdlib_module_names - set(packages())
        if not {canonicalize_name(name) for name in distributions.get(module, [module])} & wanted
    }
    assert not missing, "imported, and in no extra of the image"


def packages() -> list[str]:
    """The packages of the wheel."""
    found: list[str] = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return found


def _imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def _closure(texts: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, with what they require in turn."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in texts]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name in found or name == "runstream":
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            waiting += [(Requirement(text), wanted) for wanted in (requirement.extras or {""})]
    return found
