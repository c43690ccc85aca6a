"""The tracking store inside MLflow's server."""
