"""The three ways mmray says no, and the reasons a sample can have.

``ConfigError``: before any work, names file and key. ``SampleError``: about one segment, ends in the ledger.
``MmrayError``: about the run as a whole. Anything else is a bug or the machine, and propagates.
"""

import re
from enum import StrEnum

ERRNO = re.compile(r"^\[Errno \d+\] (?P<words>.+?)(?:: '(?P<path>[^']+)')?$")
OF_ARROW = re.compile(r"^(?:\[Errno \d+\] )?(?P<context>.+?)\.? Detail: \[errno \d+\] (?P<words>.+)$", re.DOTALL)
NO_BUCKET = re.compile(r"NoSuchBucket|NO_SUCH_BUCKET|specified bucket does not exist")


class Reason(StrEnum):
    """Why a segment is not simply ok: the ``reason`` column of the ledger."""

    NO_AUDIO = "no_audio"
    NO_VIDEO = "no_video"
    NO_IMAGE = "no_image"
    NO_TEXT = "no_text"
    TOO_SHORT = "too_short"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    CRASHED = "crashed"
    UNAVAILABLE = "unavailable"
    MISSING_FILE = "missing_file"
    ACCESS_DENIED = "access_denied"
    QUOTA = "quota"
    BAD_TEXT = "bad_text"
    MODEL_ERROR = "model_error"
    SOURCE_FAILED = "source_failed"
    NO_SOURCE = "no_source"


# Nothing to do is not a failure: these reasons make a segment skipped.
SKIPS = frozenset(
    {
        Reason.NO_AUDIO,
        Reason.NO_VIDEO,
        Reason.NO_IMAGE,
        Reason.NO_TEXT,
        Reason.TOO_SHORT,
        Reason.SOURCE_FAILED,
        Reason.NO_SOURCE,
    }
)


class MmrayError(Exception):
    """The run as a whole cannot go on; what is committed stays (exit code 3)."""


class ConfigError(MmrayError):
    """What was asked for is wrong; found before any work, names file and key (exit code 2)."""


class SampleError(Exception):
    """One segment cannot be done; it becomes its row of the ledger and everybody else goes on."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    @property
    def status(self) -> str:
        """Return ``skipped`` (there was nothing to do), ``pending`` (storage is unavailable) or ``failed``."""
        if self.reason is Reason.UNAVAILABLE:
            return "pending"
        return "skipped" if self.reason in SKIPS else "failed"

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


def in_words(error: BaseException) -> str:
    """Return an error in words: "no space left on device: PATH", or its kind and its first line."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    if words := plainly(str(error)):
        return words
    return first_line if isinstance(error, OSError) and first_line else f"{type(error).__name__}: {first_line}"


def plainly(text: str) -> str | None:
    """Return what an error of the operating system, Arrow or S3 says without its numbers; None for other texts."""
    text = text.strip()
    if match := OF_ARROW.match(text):
        return f"{_lower(match['words'])} ({_lower(match['context'])})"
    if match := ERRNO.match(text):
        return f"{_lower(match['words'])}: {match['path']}" if match["path"] else _lower(match["words"])
    return f"no such bucket ({text})" if NO_BUCKET.search(text) else None


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
