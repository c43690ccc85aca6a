"""Benchmarks of one part each, to be run by themselves."""
