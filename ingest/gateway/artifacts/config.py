"""What the artifact routes need to know; filled from settings by the composition in ``runstream``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArtifactConfig:
    """The store and the bounds of one gateway process.

    ``url`` is ``RUNSTREAM_ARTIFACTS``. ``max_bytes`` limits one artifact, ``max_files`` the artifacts of one run or
    model; ``None`` means no limit. ``transfer_memory_bytes`` is what all transfers under way may hold together, half
    of it in each direction, and ``max_waiting`` how many more may wait for it, half of them one caller's, for at most
    ``wait_s``. ``stall_s`` bounds silence of the store, and how long a client may keep a transfer waiting beyond what
    it earns by moving bytes (``budget.Turn``). With ``direct``, clients get signed addresses and exchange large files
    with the store itself, as with MLflow's own server, where the store can sign; ``public_endpoint`` is the S3
    endpoint as clients see it. ``keep_free_bytes`` of the disk of the folder
    ``shared_disk`` are not for artifacts.
    """

    url: str
    max_bytes: int | None = None
    max_files: int | None = None
    max_list_entries: int = 100_000
    transfer_memory_bytes: int = 384 << 20
    max_waiting: int = 1000
    wait_s: float = 100.0
    stall_s: float = 60.0
    part_bytes: int = 6 << 20
    parts_under_way: int = 2
    direct: bool = True
    public_endpoint: str | None = None
    sign_ttl_s: int = 300
    retry_after_s: int = 5
    shared_disk: str | None = None
    keep_free_bytes: int = 0
