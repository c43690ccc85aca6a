"""Everybody who takes part."""

from __future__ import annotations

from benchmarks.peers import FastTrackMLPostgres, FastTrackMLSqlite, MlflowPostgres, MlflowSqlite
from benchmarks.runstreams import Runstream, RunstreamKafka
from benchmarks.server import Server

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
