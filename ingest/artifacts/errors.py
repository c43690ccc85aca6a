"""What can go wrong with an artifact, in words that a client may see.

Messages never carry what a store said: that can hold addresses, signatures or keys, and goes, scrubbed, to the log.
"""

from __future__ import annotations

from runstream.schemas.errors import RunstreamError


class ArtifactError(RunstreamError):
    """Base of every error of the artifact store."""


class InvalidPathError(ArtifactError):
    """The path leaves the root, or names nothing that a store can hold."""


class NoSuchArtifactError(ArtifactError):
    """There is no object at the path."""


class NotAFileError(ArtifactError):
    """The path is a directory, or lies below a file."""


class ArtifactTooLargeError(ArtifactError):
    """A limit on sizes or counts is reached."""


class RangeError(ArtifactError):
    """The wanted range lies outside the object, which has ``size`` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__("the range lies outside the artifact")
        self.size = size


class UnsupportedError(ArtifactError):
    """The store cannot do this (sign addresses, take parts)."""


class BrokenUploadError(ArtifactError):
    """The client's body ended early, stalled or did not have the announced length; nothing was stored."""

    retryable = True


class BusyError(ArtifactError):
    """Too many transfers are under way in this process."""

    retryable = True
    nothing_done = True


class StoreUnavailableError(ArtifactError):
    """The store failed, stalled or is away; what was under way left nothing visible."""

    retryable = True
    nothing_done = True


class StoreRefusedError(ArtifactError):
    """The store does not accept the server's credentials or rights; an operator must act."""
