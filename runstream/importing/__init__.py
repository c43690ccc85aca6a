"""Moving in and out: sources of other tools, the points that an MLflow database holds itself, and exports."""
