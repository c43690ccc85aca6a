"""What works, what does not, what to do."""
