"""Consumes the queue and persists points as columns."""
