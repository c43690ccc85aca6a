"""What every process of a role has: a listener, logs, metrics, probes."""
