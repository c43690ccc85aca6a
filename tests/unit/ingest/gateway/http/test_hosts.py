"""Which hosts are served: MLflow's rule, but that private ranges are of addresses only."""

from __future__ import annotations

import pytest

from runstream.ingest.gateway.http.hosts import HostRules


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:5000",
        "127.0.0.1:1",
        "[::1]:5000",
        "10.1.2.3",
        "10.1.2.3:80",
        "192.168.0.1",
        "172.31.0.9",
    ],
)
def test_this_machine_and_private_addresses_are_served(host: str) -> None:
    rules = HostRules(None)
    assert rules.allows(host)
    assert rules.allows_probe(host)
    assert not rules.refuses(host)


@pytest.mark.parametrize(
    "host",
    [
        "10.evil.example",
        "192.168.evil.example:80",
        "172.16.evil.example",
        "10.1.2.3.evil",
        "10.1.2.3:x",
        "fc00:x",
    ],
)
def test_names_that_begin_like_private_addresses_are_refused(host: str) -> None:
    rules = HostRules(None)
    assert not rules.allows(host)
    assert not rules.allows_probe(host)
    assert rules.refuses(host)


def test_other_hosts_are_for_mlflow_to_judge_and_probes_may_come_by_number() -> None:
    rules = HostRules("mlflow.example.com,a.*")
    assert rules.allows("mlflow.example.com")
    assert rules.allows("a.b")
    assert not rules.allows("10.1.2.3:5000")
    assert not rules.refuses("10.1.2.3:5000")
    assert rules.allows_probe("10.1.2.3:5000")
    assert rules.allows_probe("[fe80::1]:5000")
    assert rules.allows_probe("localhost:5000")
    assert not rules.allows_probe("evil.example")
    assert not rules.allows("")
    assert HostRules("*").allows("anything")
