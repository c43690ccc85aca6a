"""What travels and what is stored: wire formats, limits, topics and table migrations. No network."""
