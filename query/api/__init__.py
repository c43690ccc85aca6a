"""Runstream's own reads: many series at once, curves, bands, summaries."""
