"""Reads: what is waited for, and what is passed on to whom."""
