"""The page of curves at ``/runstream/``."""
