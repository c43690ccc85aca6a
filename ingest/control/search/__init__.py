"""Search of runs and experiments, in MLflow's own tables."""
