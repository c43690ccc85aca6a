"""MLflow's metric histories."""
