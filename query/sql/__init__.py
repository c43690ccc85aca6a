"""Read-only SQL of users, fenced."""
