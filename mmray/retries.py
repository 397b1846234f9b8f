"""What goes wrong between mmray and a remote file, by its kind, and how often it is tried again.

Every error of a remote file system becomes one of four: FileNotFoundError (404), PermissionError (401, 403, no
credentials), UnavailableError (a passing fault that outlasted the retries), or another OSError (it will not pass).
"""

import asyncio
import errno
import logging
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from mmray.errors import Reason, SampleError

log = logging.getLogger(__name__)
Result = TypeVar("Result")
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
NOTICE_AFTER_S = 3.0  # who waits for so long wants to know why
NOTICE_EVERY_S = 30.0  # many files of one server fail at once

MISSING = frozenset({404, 410})
DENIED = frozenset({401, 403, 407})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509})
# S3 says these with a status that does not tell (400, 409).
PASSING_CODES = frozenset(
    {"ConditionalRequestConflict", "IncompleteBody", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}
)
# Of the libraries that are loaded; their names, because importing them costs a second.
PASSING_ERRORS = {
    "aiohttp": ("ClientConnectionError", "ClientPayloadError"),
    "botocore.exceptions": ("ConnectionError", "HTTPClientError", "IncompleteReadError"),
    "botocore.parsers": ("ResponseParserError",),  # half an answer, or one of a proxy
    "urllib3.exceptions": ("HTTPError",),
}
CREDENTIAL_ERRORS = {
    "botocore.exceptions": (
        "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError", "SSOError",
        "TokenRetrievalError", "ProfileNotFound",
    )
}  # fmt: skip
# Of mounted disks (NFS, sshfs) whose server is away.
PASSING_NUMBERS = frozenset(
    {
        errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip
ADVICE = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
}

# Of a server that outlasted the limit and has not answered since: a thousand files on it must not each wait so long.
GIVEN_UP_LIMIT_S = 5.0

_given_up: set[str] = set()
_default_limit_s = 60.0
_noticed_s = -NOTICE_EVERY_S
_limit_s: ContextVar[float | None] = ContextVar("retry_limit_s", default=None)


class UnavailableError(OSError):
    """A passing fault (refused, reset, timeout, 429, 5xx, short read) that outlasted the retries.

    ``status``: of the HTTP response; None where there was none.
    """

    status: int | None = None


class ShortReadError(ConnectionError):
    """A response ended before the bytes that it promised."""


def set_retry_limit_s(seconds: float) -> None:
    """Set how long this process retries a passing fault, from its first failure on."""
    global _default_limit_s
    _default_limit_s = seconds


def retry_limit_s() -> float:
    """Return how long a passing fault is retried here."""
    limit_s = _limit_s.get()
    return _default_limit_s if limit_s is None else limit_s


def request_timeout_s() -> float:
    """Return how long a server may stay silent: less than the limit, so that there is a second attempt."""
    return min(20.0, max(5.0, _default_limit_s / 2))  # 5 s: busy servers are not silent ones


@contextmanager
def limited_to(seconds: float) -> Iterator[None]:
    """Retry for ``seconds`` only, in this thread."""
    token = _limit_s.set(seconds)
    try:
        yield
    finally:
        _limit_s.reset(token)


class Attempts:
    """Decide after each failure of one request whether to try again, and when: back-off with jitter, within the limit.

    The limit counts from the first failure on, by the monotonic clock: reading a large file is no failure.
    """

    def __init__(self, uri: str, limit_s: float | None = None) -> None:
        self._uri = uri
        self._server = "/".join(uri.split("/")[:3])
        self._limit_s = retry_limit_s() if limit_s is None else max(0.0, limit_s)
        if self._server in _given_up:
            self._limit_s = min(self._limit_s, GIVEN_UP_LIMIT_S)
        self._first_failure_s: float | None = None
        self._backoff_s = FIRST_WAIT_S

    @property
    def lost_s(self) -> float:
        """Return the seconds since the first failure; 0 where there was none."""
        return 0.0 if self._first_failure_s is None else time.monotonic() - self._first_failure_s

    @property
    def left_s(self) -> float:
        """Return the seconds that are left of the limit."""
        return max(0.0, self._limit_s - self.lost_s)

    def wait_s(self, error: Exception) -> float:
        """Return how long to wait before the next attempt; raise what the error is where there is none."""
        fault = described(error)
        if fault.known is not None:
            raise fault.known
        if fault.passing and self._first_failure_s is None:
            self._first_failure_s = time.monotonic()
        if not fault.passing or not self.left_s or (fault.retry_after_s or 0.0) > self.left_s:
            if fault.passing:
                _given_up.add(self._server)
            raise fault.error(self._uri) from error
        wait_s = self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 — spreads clients, hides nothing
        self._backoff_s = min(LONGEST_WAIT_S, 2 * self._backoff_s)
        self._notice(fault)
        return min(self.left_s, max(wait_s, fault.retry_after_s or 0.0))

    def succeeded(self) -> None:
        """Record that the server answers: its next fault has the whole limit again."""
        _given_up.discard(self._server)

    def _notice(self, fault: "Fault") -> None:
        global _noticed_s
        if self.lost_s >= NOTICE_AFTER_S and time.monotonic() - _noticed_s >= NOTICE_EVERY_S:
            _noticed_s = time.monotonic()
            log.warning("%s: %s; trying for up to %.0f s more", self._uri, fault.cause, self.left_s)


def retried(uri: str, function: Callable[[Attempts], Result], limit_s: float | None = None) -> Result:
    """Return what a function returns, which is tried again after passing faults; it raises OSErrors only."""
    attempts = Attempts(uri, limit_s)
    while True:
        try:
            result = function(attempts)
        except Exception as error:  # noqa: BLE001 — of any library; `wait_s` raises again what does not pass
            wait_s = attempts.wait_s(error)
        else:
            attempts.succeeded()
            return result
        time.sleep(wait_s)


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error of a remote file system says."""

    kind: type[OSError]
    cause: str
    passing: bool = False
    status: int | None = None
    retry_after_s: float | None = None
    known: OSError | None = None  # an error that says all itself

    def error(self, uri: str) -> OSError:
        """Return the error to raise metadata a file."""
        if self.known is not None:
            return self.known
        error = self.kind(f"{uri}: {self.cause}{_advice(uri) if self.kind is PermissionError else ''}")
        if isinstance(error, UnavailableError):
            error.status = self.status
        return error


def described(error: Exception) -> Fault:
    """Return what an error says, from the response and the causes that its chain holds."""
    if isinstance(error, UnavailableError | FileExistsError | IsADirectoryError):
        return Fault(type(error), str(error), known=error)
    chain = list(_chain(error))
    response = _response(chain)
    if response is None:
        return _without_response(error, chain)
    status, code, words = response.status, response.code, response.words
    if status in MISSING:
        return Fault(FileNotFoundError, words, status=status)
    if status in DENIED or isinstance(error, PermissionError):  # an expired token is a 400
        return Fault(PermissionError, words, status=status)
    if status in PASSING or status >= 520 or code in PASSING_CODES:
        return Fault(UnavailableError, words, True, status, _seconds(response.headers.get("retry-after")))
    return Fault(OSError, words, status=status)


def _without_response(error: Exception, chain: list[BaseException]) -> Fault:
    cause = one_line(chain[-1])
    if any(isinstance(link, _types(CREDENTIAL_ERRORS)) for link in chain):
        return Fault(PermissionError, one_line(error))
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in chain):
        return Fault(OSError, cause)
    builtin = (ConnectionError, TimeoutError, socket.gaierror, ssl.SSLError, asyncio.IncompleteReadError)
    passing = (*builtin, *_types(PASSING_ERRORS))
    if any(isinstance(link, passing) for link in chain):
        return Fault(UnavailableError, cause, passing=True)
    for kind in (FileNotFoundError, PermissionError):
        if isinstance(error, kind):
            return Fault(kind, "there is no such file" if kind is FileNotFoundError else cause)
    if isinstance(error, OSError) and error.errno in PASSING_NUMBERS:
        return Fault(UnavailableError, cause, passing=True)
    return Fault(OSError, cause)


def sample_error(uri: str, error: OSError) -> SampleError:
    """Return what it means for a segment that its file cannot be read."""
    if isinstance(error, UnavailableError) or error.errno in PASSING_NUMBERS:
        return SampleError(Reason.UNAVAILABLE, str(error))
    if isinstance(error, FileNotFoundError):
        return SampleError(Reason.MISSING_FILE, str(error) if str(error).startswith(uri) else uri)
    if isinstance(error, PermissionError):
        return SampleError(Reason.ACCESS_DENIED, str(error))
    return SampleError(Reason.UNREADABLE, str(error))


def one_line(error: BaseException) -> str:
    """Return an error's own words in one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return an error and its causes; not its context, which may be an error that the caller was handling."""
    link: BaseException | None = error
    for _ in range(20):  # a chain may be a ring
        if link is None:
            return
        yield link
        link = link.__cause__


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    code: str
    words: str
    headers: dict[str, str]  # names in lower case


def _response(chain: list[BaseException]) -> _Response | None:
    """Return the response in a chain of errors, as botocore and aiohttp keep it."""
    for link in chain:
        response = getattr(link, "response", None)
        if isinstance(response, dict) and "HTTPStatusCode" in response.get("ResponseMetadata", {}):
            metadata: dict[str, Any] = response["ResponseMetadata"]
            status = int(metadata["HTTPStatusCode"])
            code, message = (str(response.get("Error", {}).get(key) or "") for key in ("Code", "Message"))
            words = ": ".join(part for part in (code, message) if part and part != str(status))
            return _Response(status, code, f"{status} {words}".strip(), metadata.get("HTTPHeaders", {}))
        if isinstance(link, _types({"aiohttp": ("ClientResponseError",)})):
            headers = {str(name).lower(): str(value) for name, value in (getattr(link, "headers", None) or {}).items()}
            status = int(getattr(link, "status", 0))
            return _Response(status, "", f"{status} {getattr(link, 'message', '')}".strip(), headers)
    return None


def _types(names: Mapping[str, tuple[str, ...]]) -> tuple[type[BaseException], ...]:
    """Return types of errors of the modules that are loaded."""
    loaded = {name: sys.modules.get(name) for name in names}
    return tuple(getattr(module, each) for name, module in loaded.items() if module for each in names[name])


def _seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header means: a number, or a date."""
    if not value:
        return None
    if value.strip().replace(".", "", 1).isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _advice(uri: str) -> str:
    advice = ADVICE.get(uri.partition("://")[0])
    return f"; {advice}" if advice else ""
