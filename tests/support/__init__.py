"""Starts and stops the real parts that tests use."""
