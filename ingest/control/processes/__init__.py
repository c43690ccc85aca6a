"""Processes beside a gateway that search MLflow's tables and make tables of runs."""
