"""MLflow's dialect, once: limits, names, protobuf JSON, page tokens, statuses of errors."""
