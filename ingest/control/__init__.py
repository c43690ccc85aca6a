"""The control plane: experiments, runs, params, tags and models, on MLflow's own tables. Knows no HTTP."""
