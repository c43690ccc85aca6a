"""MLflow's routes of experiments, runs and models, served from the control plane's store."""
