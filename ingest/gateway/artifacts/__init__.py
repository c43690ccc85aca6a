"""MLflow's artifact proxy: routes, rights, limits, transfers."""
