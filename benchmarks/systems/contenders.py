"""Everybody who takes part."""

from __future__ import annotations

from benchmarks.systems.base import Server
from benchmarks.systems.fasttrackml import FastTrackMLPostgres, FastTrackMLSqlite
from benchmarks.systems.mlflow import MlflowPostgres, MlflowSqlite
from benchmarks.systems.runstream import Runstream, RunstreamKafka

CONTENDERS: dict[str, type[Server]] = {
    server.name: server
    for server in (
        Runstream,
        RunstreamKafka,
        MlflowSqlite,
        MlflowPostgres,
        FastTrackMLSqlite,
        FastTrackMLPostgres,
    )
}
