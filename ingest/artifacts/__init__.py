"""Artifacts in object storage."""
