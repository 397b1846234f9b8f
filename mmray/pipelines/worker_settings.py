"""The settings that a driver hands to its workers; a driver imports no decoder and no model for them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the workers of one pool share.

    ``timeout_s``: of the watchdog, for each segment; ``decode_threads``: segments that a worker decodes at once.
    """

    store: str
    run_id: str
    device: str
    timeout_s: float
    max_attempts: int
    decode_threads: int
    cpus: int
