"""MLflow's metadata database, as the control plane reaches it: SQLite and PostgreSQL, by their own drivers."""
