"""Seeded workloads, the peers, the load generator, and the report. Run with ``python -m benchmarks``."""
