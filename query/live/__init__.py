"""Points as they arrive, for listeners."""
