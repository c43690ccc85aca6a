"""One form for every spelling of an address: what MLflow's server takes, and nothing more."""

from __future__ import annotations

import pytest

from runstream.ingest.gateway.http.target import Target, read_target
from runstream.schemas.errors import MlflowError

PATH = "/api/2.0/mlflow/runs/delete"


@pytest.mark.parametrize(
    "spelling",
    [
        PATH,
        f"/{PATH}",
        f"////{PATH}",
        PATH.replace("mlflow", "%6dlflow"),
        PATH.replace("/mlflow", "%2Fmlflow"),
        PATH.replace("/mlflow", "%2fmlflow"),
        f"/%2F{PATH[1:]}",
        f"%2F{PATH[1:]}",
        f"%2f%2f/{PATH}",
    ],
)
def test_these_are_one_address(spelling: str) -> None:
    assert read_target(spelling) == Target(PATH, PATH)
    assert read_target(f"{spelling}?a=%2F&b") == Target(PATH, f"{PATH}?a=%2F&b")
    assert read_target(f"http://Host:1{'' if spelling[0] == '/' else '/'}{spelling}") == Target(
        PATH, PATH, "Host:1"
    )


@pytest.mark.parametrize(
    "other",
    [
        f"{PATH}/",
        PATH.replace("/mlflow", "//mlflow"),
        PATH.replace("/mlflow", "/./mlflow"),
        f"/x/..{PATH}",
        PATH.replace("mlflow", "%256dlflow"),
        PATH.upper(),
        f"{PATH}%00",
        f"{PATH}%20",
        f"{PATH};x",
        f"{PATH}%3Fx",
        f"{PATH}#x",
        f"{PATH}%",
        f"{PATH}%ff",
    ],
)
def test_these_are_others_and_stay_what_they_are(other: str) -> None:
    target = read_target(other)
    assert target.path != PATH
    again = read_target(target.raw)
    assert (again.path, again.raw) == (target.path, target.raw)


def test_what_a_path_cannot_say_is_escaped_for_passing_on() -> None:
    assert read_target("/a%20b%3F%23%c3%b6%ff?q#f\udcff").raw == "/a%20b%3F%23%C3%B6%FF?q%23f%FF"
    assert read_target("/a%20b%3F%23%c3%b6").path == "/a b?#ö"
    assert read_target("http://h").raw == "/"
    assert read_target("http://h?x").query == "x"


@pytest.mark.parametrize(
    "target", ["*", "api/2.0", "x://a/", "m://x/", "@h/", "%61", "", "ftp://h/", "h:443", "http:/x"]
)
def test_what_is_no_address_of_this_server_is_refused(target: str) -> None:
    with pytest.raises(MlflowError):
        read_target(target)
