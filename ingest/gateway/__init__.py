"""The HTTP edge: what MLflow clients talk to."""
