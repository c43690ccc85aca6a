"""The client that spools: a call returns once what it says is in a file; delivery happens elsewhere.

Light: the standard library, ``crc32c``, ``lz4`` and ``requests``. MLflow is imported only where MLflow asks for its
store (``store``).
"""
