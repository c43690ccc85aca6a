"""Interfaces of parts that several packages use and one place provides."""
