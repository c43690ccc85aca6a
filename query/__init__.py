"""The read path: metric histories for MLflow clients, its UI and notebooks."""
