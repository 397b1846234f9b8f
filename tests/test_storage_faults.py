"""What storage does when servers fail: passing faults are retried, lasting ones say what they are, no byte is wrong."""

import errno
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.exceptions
import pyarrow as pa
import pytest

from mmray import retries, storage
from mmray.errors import Reason
from mmray.retries import Attempts, UnavailableError, described
from mmray.storage_cas import compare_and_swap
from tests.faults.proxy import Fault, FaultProxy, Kind
from tests.faults.web import web

DATA = random.Random(1).randbytes(9 * 2**20 + 17)  # three blocks
LONG_S = 30.0  # longer than any retry of these tests needs, on a busy machine too


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    before_s = retries.retry_limit_s()
    storage.set_retry_limit_s(LONG_S)
    retries._given_up.clear()
    yield
    storage.set_retry_limit_s(before_s)


@pytest.fixture
def s3_proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint, seed=3) as proxy:
        yield proxy


@pytest.fixture
def bucket(s3_bucket: str, s3_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_proxy.endpoint)
    return s3_bucket


@pytest.fixture
def web_proxy() -> Iterator[FaultProxy]:
    with web({"whole": DATA}) as endpoint, FaultProxy(endpoint, seed=5) as proxy:
        yield proxy


PASSING = [
    Fault(Kind.ERROR, status=500, count=1),
    Fault(Kind.ERROR, status=429, retry_after_s=0.2, count=1),
    Fault(Kind.RESET, count=1),
    Fault(Kind.CUT_BODY, count=1),
    Fault(Kind.LOST_RESPONSE, count=1),
    Fault(Kind.SLOW, delay_s=0.01, count=1),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_a_fault_that_passes_changes_nothing(fault: Fault, bucket: str, s3_proxy: FaultProxy) -> None:
    uri, other, data = f"{bucket}/folder/file", f"{bucket}/folder/other", DATA[:100_000]

    def opened() -> bytes:
        with storage.open_read(uri) as file:
            return file.read()

    steps: list[tuple[Callable[[], Any], Any]] = [
        (lambda: storage.put(uri, data), None),
        (lambda: compare_and_swap(other, None, b"own") is not None, True),
        (lambda: compare_and_swap(other, None, b"another's") is not None, False),
        (opened, data),
        (lambda: storage.read_bytes(other), b"own"),
        (lambda: storage.exists(uri), True),
        (lambda: storage.exists(uri + "-not"), False),
        (lambda: storage.is_folder(f"{bucket}/folder"), True),
        (lambda: [entry.uri for entry in storage.files(bucket)], [uri, other]),
        (lambda: [entry.uri for entry in storage.glob(f"{bucket}/**/o*r")], [other]),
        (lambda: isinstance(storage.entries([uri])[uri], storage.Entry), True),
        (lambda: storage.delete([uri]), None),
        (lambda: storage.delete_folder(bucket), None),
        (lambda: storage.files(bucket), []),
    ]
    for step, expected in steps:
        s3_proxy.clear()
        s3_proxy.inject(fault)
        assert step() == expected
    assert s3_proxy.count(fault=fault.kind) >= len(steps)


@pytest.mark.parametrize("kind", [Kind.LOST_RESPONSE, Kind.RESET, Kind.ERROR])
def test_who_creates_a_file_knows_it_whatever_becomes_of_the_response(
    kind: Kind, bucket: str, s3_proxy: FaultProxy
) -> None:
    s3_proxy.inject(Fault(kind, methods=("PUT",), count=2))
    assert compare_and_swap(f"{bucket}/lock", None, b"mine") is not None
    assert compare_and_swap(f"{bucket}/lock", None, b"another's") is None
    assert storage.read_bytes(f"{bucket}/lock") == b"mine"
    assert s3_proxy.count(fault=kind) > 0


def test_a_fifth_of_all_requests_may_fail(bucket: str, s3_proxy: FaultProxy) -> None:
    for kind in (Kind.ERROR, Kind.RESET, Kind.CUT_BODY, Kind.LOST_RESPONSE):
        s3_proxy.inject(Fault(kind, share=0.06))  # 22 % together
    uris = [f"{bucket}/{number % 3}/{number}" for number in range(30)]
    for uri in uris:
        storage.put(uri, uri.encode())
    assert [entry.uri for entry in storage.files(bucket)] == sorted(uris)
    assert all(isinstance(entry, storage.Entry) for entry in storage.entries(uris).values())
    assert [storage.read_bytes(uri) for uri in uris] == [uri.encode() for uri in uris]
    storage.delete(uris)
    assert storage.files(bucket) == []


@pytest.mark.parametrize("server", ["s3", "http"])
def test_cut_bodies_give_the_right_bytes_anywhere(server: str, request: pytest.FixtureRequest) -> None:
    if server == "s3":
        uri = f"{request.getfixturevalue('bucket')}/file"
        storage.put(uri, DATA)
        proxy = request.getfixturevalue("s3_proxy")
    else:
        proxy = request.getfixturevalue("web_proxy")
        uri = f"{proxy.endpoint}/whole"
    proxy.inject(Fault(Kind.CUT_BODY, share=0.3, methods=("GET",)))
    places = random.Random(2)
    with storage.open_read(uri) as file:
        for _ in range(12):
            start = places.randrange(len(DATA))
            file.seek(start)
            length = places.randrange(1, 3 * 2**20)
            assert file.read(length) == DATA[start : start + length]
        file.seek(-5, os.SEEK_END)
        assert file.read() == DATA[-5:]
        file.seek(1)
        assert file.read() == DATA[1:]
    assert proxy.count(fault=Kind.CUT_BODY) > 0


LASTING = [
    (Fault(Kind.ERROR, status=503), "503", 503),
    (Fault(Kind.ERROR, status=429), "429", 429),
    (Fault(Kind.ERROR, status=429, retry_after_s=3600), "429", 429),
    (Fault(Kind.RESET), "", None),
]


@pytest.mark.parametrize(("fault", "words", "status"), LASTING)
@pytest.mark.parametrize("server", ["s3", "http"])
def test_a_fault_that_stays_is_unavailable_and_says_why(
    server: str, fault: Fault, words: str, status: int | None, request: pytest.FixtureRequest
) -> None:
    storage.set_retry_limit_s(0.3)
    proxy = request.getfixturevalue("s3_proxy" if server == "s3" else "web_proxy")
    uri = f"{request.getfixturevalue('bucket')}/file" if server == "s3" else f"{proxy.endpoint}/whole"
    proxy.inject(fault)
    steps: list[Callable[[], Any]] = [lambda: storage.open_read(uri), lambda: storage.exists(uri)]
    if server == "s3":
        steps += [lambda: storage.put(uri, b""), lambda: storage.files(uri), lambda: storage.delete([uri])]
    for step in steps:
        with pytest.raises(UnavailableError) as caught:
            step()
        assert words in str(caught.value)
        assert str(caught.value).startswith(uri.rpartition("/")[0])
        assert caught.value.status == status
    if fault.retry_after_s:  # there is no use in asking before
        assert proxy.count() == len(steps) + (server == "http")  # `exists` asks with HEAD and GET


def test_a_server_that_is_down_for_a_while_is_waited_for(bucket: str, s3_proxy: FaultProxy) -> None:
    storage.put(f"{bucket}/file", DATA)
    with storage.open_read(f"{bucket}/file") as file:
        s3_proxy.down(1.0)
        file.seek(5 * 2**20)
        assert file.read() == DATA[5 * 2**20 :]


def test_a_host_that_is_not_there_is_unavailable() -> None:
    storage.set_retry_limit_s(0.5)
    with pytest.raises(UnavailableError, match=r"nowhere\.invalid"):
        storage.open_read("http://nowhere.invalid/a.mp4")
    with pytest.raises(UnavailableError, match="Connect call failed"):
        storage.open_read("http://127.0.0.1:9/a.mp4")


def test_errors_say_what_is_missing_and_what_is_denied(
    bucket: str, s3_proxy: FaultProxy, web_proxy: FaultProxy
) -> None:
    with pytest.raises(FileNotFoundError, match="404 NoSuchKey"):
        storage.open_read(f"{bucket}/none")
    with pytest.raises(FileNotFoundError, match="404 NoSuchBucket"):
        storage.open_read("s3://mmray-no-such-bucket/none")
    with pytest.raises(FileNotFoundError, match="NoSuchBucket"):
        storage.put("s3://mmray-no-such-bucket/none", b"")
    with pytest.raises(FileNotFoundError, match="404"):
        storage.open_read(f"{web_proxy.endpoint}/none")
    for status in (401, 403):
        with pytest.raises(PermissionError, match=str(status)):
            storage.open_read(f"{web_proxy.endpoint}/{status}")
    with pytest.raises(OSError, match="400") as caught:
        storage.open_read(f"{web_proxy.endpoint}/400")
    assert type(caught.value) is OSError
    s3_proxy.inject(Fault(Kind.ERROR, status=403))
    for step in (storage.open_read, storage.exists, storage.files):
        with pytest.raises(PermissionError, match="403"):
            step(f"{bucket}/file")


def test_without_credentials_there_is_advice(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PermissionError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"):
        storage.open_read("s3://bucket/file")


@pytest.mark.parametrize("name", ["no-length", "chunked", "no-ranges"])
def test_servers_that_give_no_parts_are_read_whole(name: str, web_proxy: FaultProxy) -> None:
    upstream = web_proxy.upstream  # the proxy would add a length
    with storage.open_read(f"{upstream}/whole?{name}") as file:
        file.seek(100)
        assert file.read(7) == DATA[100:107]
        file.seek(-3, os.SEEK_END)
        assert file.read() == DATA[-3:]


def test_a_cut_spool_begins_again(web_proxy: FaultProxy) -> None:
    web_proxy.inject(Fault(Kind.CUT_BODY, count=3))
    assert storage.read_bytes(f"{web_proxy.endpoint}/whole?no-ranges") == DATA


def test_what_has_to_be_read_whole_has_a_limit(web_proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmray.remote import http

    monkeypatch.setattr(http, "SPOOL_BYTES", 2**20)
    with pytest.raises(OSError, match="does not give parts of it"):
        storage.open_read(f"{web_proxy.upstream}/whole?chunked")


def test_a_file_that_changes_while_it_is_read_is_never_mixed(bucket: str) -> None:
    storage.put(f"{bucket}/file", DATA)
    with storage.open_read(f"{bucket}/file") as file:
        storage.put(f"{bucket}/file", bytes(len(DATA)))
        file.seek(6 * 2**20)
        with pytest.raises(UnavailableError, match="changed"):
            file.read(10)


def test_a_small_file_is_one_put_and_a_large_one_has_parts(bucket: str, s3_proxy: FaultProxy) -> None:
    with storage.create(f"{bucket}/small") as file:
        for start in range(0, len(DATA), 2**20):
            file.write(DATA[start : start + 2**20])
    assert [seen.method for seen in s3_proxy.requests] == ["PUT"]
    assert storage.read_bytes(f"{bucket}/small") == DATA
    with storage.create(f"{bucket}/large") as file:
        for _ in range(4):
            file.write(DATA)
        assert storage.files(f"{bucket}/large") == []
    assert storage.read_bytes(f"{bucket}/large") == 4 * DATA


def uploads(bucket: str) -> list[Any]:
    fs, _ = storage._remote(bucket)
    found: list[Any] = fs.call_s3("list_multipart_uploads", Bucket=bucket.removeprefix("s3://")).get("Uploads", [])
    return found


@pytest.mark.parametrize("fault", [Fault(Kind.LOST_RESPONSE, share=0.3), Fault(Kind.ERROR, share=0.3)])
def test_a_large_file_appears_whole_however_requests_fail(fault: Fault, bucket: str, s3_proxy: FaultProxy) -> None:
    s3_proxy.inject(fault)
    with storage.create(f"{bucket}/large") as file:
        for _ in range(4):
            file.write(DATA)
    s3_proxy.clear()
    assert storage.read_bytes(f"{bucket}/large") == 4 * DATA


def test_the_lost_response_of_the_last_step_of_an_upload_is_no_failure(bucket: str, s3_proxy: FaultProxy) -> None:
    with storage.create(f"{bucket}/large") as file:
        for _ in range(3):
            file.write(DATA)
        file.flush()
        s3_proxy.inject(Fault(Kind.LOST_RESPONSE, count=1, methods=("POST",)))
    assert s3_proxy.count(fault=Kind.LOST_RESPONSE) == 1
    assert storage.read_bytes(f"{bucket}/large") == 3 * DATA


def test_nothing_appears_of_a_large_file_that_fails(bucket: str, s3_proxy: FaultProxy) -> None:
    with pytest.raises(ZeroDivisionError), storage.create(f"{bucket}/large") as file:
        for _ in range(3):
            file.write(DATA)
        raise ZeroDivisionError
    storage.set_retry_limit_s(1.0)
    with pytest.raises(UnavailableError), storage.create(f"{bucket}/large") as file:
        for _ in range(3):
            s3_proxy.inject(Fault(Kind.ERROR, methods=("PUT",)))
            file.write(DATA)
    s3_proxy.clear()
    assert storage.files(bucket) == []
    assert uploads(bucket) == []


def test_a_large_upload_takes_little_memory(s3_bucket: str) -> None:
    program = """
import resource, sys
from mmray import storage
def peak_bytes(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
piece = bytes(2**20)
with storage.create(sys.argv[1] + "/first") as file:
    for _ in range(40): file.write(piece)
before = peak_bytes()
with storage.create(sys.argv[1] + "/second") as file:
    for _ in range(140): file.write(piece)
print(peak_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", program, s3_bucket], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30 * 2**20  # a third of what was written beyond the first
    assert storage.files(s3_bucket)[1].size_bytes == 140 * 2**20


def test_other_libraries_write_and_read_past_faults(bucket: str, s3_proxy: FaultProxy) -> None:
    import pyarrow.parquet as pq

    system, path = storage.arrow(f"{bucket}/train")
    table = pa.table({"a": list(range(1000))})
    s3_proxy.inject(Fault(Kind.ERROR, share=0.3))
    for number in range(5):
        pq.write_table(table, f"{path}/{number}.parquet", filesystem=system)
        assert pq.read_table(f"{path}/{number}.parquet", filesystem=system).equals(table)


def test_names_are_no_patterns_when_they_are_deleted(bucket: str) -> None:
    for name in ("a*", "ab", "a?", "[ab]", "a"):
        storage.put(f"{bucket}/x/{name}", b"")
    storage.delete([f"{bucket}/x/a*", f"{bucket}/x/a?", f"{bucket}/x/[ab]"])
    assert [entry.uri for entry in storage.files(bucket)] == [f"{bucket}/x/a", f"{bucket}/x/ab"]


# Looking at many files


def test_what_cannot_be_seen_is_absent_and_says_why(bucket: str, web_proxy: FaultProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    storage.put(f"{bucket}/folder/file", b"x")
    there = [str(tmp_path / "file"), f"{bucket}/folder/file", f"{web_proxy.endpoint}/whole"]
    why = {
        str(tmp_path / "none"): "No such file",
        str(tmp_path): "not a file",
        str(tmp_path / "file" / "below"): "Not a directory",
        "a\0b": "null",
        f"{bucket}/folder/none": "no such file",
        f"{bucket}/none/none": "",
        "s3://mmray-no-such-bucket/none": "NoSuchBucket",
        f"{web_proxy.endpoint}/none": "404",
        f"{web_proxy.endpoint}/403": "403",
        "nothing://a/b": "nothing",
    }
    found = storage.entries([*there, *why])
    assert all(isinstance(found[uri], storage.Entry) for uri in there)
    for uri, words in why.items():
        entry = found[uri]
        assert isinstance(entry, storage.Absent)
        assert words in entry.detail


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that other users can look into, as those of pytest are not."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def another_user() -> Iterator[None]:
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_files_that_this_user_may_not_read_are_absent(open_folder: Path) -> None:
    (open_folder / "own").write_bytes(b"x")
    (open_folder / "own").chmod(0o600)
    (open_folder / "all").write_bytes(b"x")
    (open_folder / "closed").mkdir(mode=0o700)
    (open_folder / "closed" / "file").write_bytes(b"x")
    with another_user():
        found = storage.entries([str(open_folder / name) for name in ("own", "all", "closed/file")])
    own, everyone, closed = found.values()
    assert isinstance(own, storage.Absent)
    assert isinstance(everyone, storage.Entry)
    assert isinstance(closed, storage.Absent)
    assert "permission" in own.detail
    assert "Permission denied" in closed.detail


def test_a_folder_that_may_not_be_listed_is_not_empty(open_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (open_folder / "file").write_bytes(b"x")
    (open_folder / "closed").mkdir(mode=0o700)
    with another_user():
        with pytest.raises(PermissionError):
            storage.files(str(open_folder / "closed"))
        assert [Path(entry.uri).name for entry in storage.files(str(open_folder))] == ["file"]
    assert "closed: is passed over: Permission denied" in caplog.text


def test_a_lasting_fault_makes_files_absent_after_one_limit(bucket: str, s3_proxy: FaultProxy) -> None:
    uris = [f"{bucket}/{number}/file" for number in range(200)]
    storage.put(uris[-1], b"x")
    storage.set_retry_limit_s(0.5)
    s3_proxy.inject(Fault(Kind.ERROR))
    found = storage.entries(uris)
    assert all(isinstance(entry, storage.Absent) and "503" in entry.detail for entry in found.values())
    # The first 16 folders, one a thread, take the whole limit: up to 8 attempts each. The others are asked for once.
    assert s3_proxy.count(fault=Kind.ERROR) <= 16 * 8 + 200
    s3_proxy.down()
    sent = s3_proxy.count()
    assert all(isinstance(entry, storage.Absent) for entry in storage.entries(uris).values())
    assert s3_proxy.count() == sent
    s3_proxy.clear()
    s3_proxy.up()
    assert isinstance(storage.entries(uris)[uris[-1]], storage.Entry)


def test_one_bad_file_of_a_web_server_does_not_hide_the_others(web_proxy: FaultProxy) -> None:
    storage.set_retry_limit_s(3)  # the small server behind is slow on a busy machine
    uris = [f"{web_proxy.endpoint}/500", *(f"{web_proxy.endpoint}/whole?{number}" for number in range(40))]
    bad, *others = storage.entries(uris).values()
    assert isinstance(bad, storage.Absent)
    assert "500" in bad.detail
    assert all(isinstance(entry, storage.Entry) for entry in others)


def test_looking_is_interrupted_at_once(bucket: str, s3_proxy: FaultProxy) -> None:
    program = """
import sys
from mmray import storage
storage.set_retry_limit_s(3600)
print("looking", flush=True)
storage.entries(f"{sys.argv[1]}/{number}/file" for number in range(100))
"""
    s3_proxy.inject(Fault(Kind.ERROR))
    child = subprocess.Popen(
        [sys.executable, "-c", program, bucket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while s3_proxy.count() < 20:
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, words = child.communicate(timeout=120)
    finally:
        child.kill()
        child.wait()
    assert "KeyboardInterrupt" in words


def test_who_waits_long_is_told_once(
    s3_proxy: FaultProxy, bucket: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "NOTICE_AFTER_S", 0.1)
    monkeypatch.setattr(retries, "_noticed_s", -1e9)
    s3_proxy.inject(Fault(Kind.ERROR, count=20))
    storage.entries(f"{bucket}/{number}/file" for number in range(4))
    (notice,) = caplog.records
    assert "503" in notice.getMessage()


def test_objects_that_may_be_read_but_not_listed_are_seen(bucket: str, s3_proxy: FaultProxy) -> None:
    storage.put(f"{bucket}/folder/file", b"x")
    name = bucket.removeprefix("s3://")
    s3_proxy.inject(Fault(Kind.ERROR, status=403, prefix=f"/{name}/folder/", methods=("GET",)))
    assert isinstance(storage.entries([f"{bucket}/folder/file"])[f"{bucket}/folder/file"], storage.Entry)


# Errors by their kind, without a server


def client_error(status: int, code: str = "", **headers: str) -> botocore.exceptions.ClientError:
    about = {"HTTPStatusCode": status, "HTTPHeaders": {name.replace("_", "-"): text for name, text in headers.items()}}
    return botocore.exceptions.ClientError({"Error": {"Code": code or str(status)}, "ResponseMetadata": about}, "Get")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 509, 520, 524])
def test_statuses_that_pass(status: int) -> None:
    assert described(client_error(status)).passing


@pytest.mark.parametrize("status", [400, 404, 401, 403, 405, 410, 412, 416, 451, 501, 505])
def test_statuses_that_do_not_pass(status: int) -> None:
    assert not described(client_error(status)).passing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error(400, "RequestTimeout"), UnavailableError),
        (client_error(409, "OperationAborted"), UnavailableError),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="http://a"), UnavailableError),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="http://a"), UnavailableError),
        (ConnectionRefusedError(), UnavailableError),
        (TimeoutError(), UnavailableError),
        (ssl.SSLError("handshake failure"), UnavailableError),
        (ssl.SSLCertVerificationError("self-signed"), OSError),
        (botocore.exceptions.NoCredentialsError(), PermissionError),
        (client_error(403, "AccessDenied"), PermissionError),
        (client_error(404, "NoSuchBucket"), FileNotFoundError),
        (ValueError("nonsense"), OSError),
        (OSError(28, "No space left on device"), OSError),
    ],
)
def test_every_error_has_one_kind(error: Exception, kind: type[OSError]) -> None:
    found = described(error).error("s3://a/b")
    assert type(found) is kind
    assert str(found).startswith("s3://a/b: ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("s3://a: 503"), Reason.UNAVAILABLE),
        (OSError(errno.ESTALE, "Stale file handle"), Reason.UNAVAILABLE),  # the server of a mounted disk is away
        (OSError(errno.ENOTCONN, "Transport endpoint is not connected"), Reason.UNAVAILABLE),
        (FileNotFoundError(errno.ENOENT, "No such file"), Reason.MISSING_FILE),
        (PermissionError(errno.EACCES, "Permission denied"), Reason.ACCESS_DENIED),
        (OSError(errno.EIO, "Input/output error"), Reason.UNREADABLE),
    ],
)
def test_every_error_has_a_reason_for_the_segment(error: OSError, reason: Reason) -> None:
    assert storage.sample_error("a", error).reason is reason


def test_retry_after_is_honoured_within_the_limit() -> None:
    storage.set_retry_limit_s(10)
    assert Attempts("s3://a/b").wait_s(client_error(429, retry_after="7")) == 7
    with pytest.raises(UnavailableError):
        Attempts("s3://a/b").wait_s(client_error(429, retry_after="11"))
    with pytest.raises(UnavailableError):
        Attempts("s3://a/b").wait_s(client_error(503, retry_after="Fri, 31 Dec 2999 23:59:59 GMT"))


def test_a_server_that_was_given_up_costs_each_further_file_little_until_it_answers() -> None:
    def refused(_: Attempts) -> None:
        raise ConnectionRefusedError("nothing listens there")

    with pytest.raises(UnavailableError):
        retries.retried("http://given.up/a", refused, limit_s=0.0)
    assert Attempts("http://given.up/b").left_s == retries.GIVEN_UP_LIMIT_S
    assert Attempts("http://another.one/b").left_s == LONG_S
    retries.retried("http://given.up/b", lambda _: None)
    assert Attempts("http://given.up/c").left_s == LONG_S


def test_waits_grow_until_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(retries.time, "monotonic", lambda: now_s)
    attempts = Attempts("s3://a/b", 20)
    waits = []
    with pytest.raises(UnavailableError):
        while True:
            waits.append(attempts.wait_s(ConnectionResetError()))
            now_s += waits[-1]
    assert waits[0] <= retries.FIRST_WAIT_S
    assert max(waits) <= retries.LONGEST_WAIT_S
    assert sum(waits) == pytest.approx(20)
    assert len(waits) < 20


def test_an_unavailable_error_crosses_processes() -> None:
    import pickle

    error = UnavailableError("s3://a: 503")
    error.status = 503
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status) == (str(error), 503)


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this machine")
    with (
        pytest.raises(OSError, match=r"No space left on device: .*table"),
        storage.create(str(tmp_path / "table")),
        full.open("wb", buffering=0) as device,
    ):
        device.write(b"x")
    assert list(tmp_path.iterdir()) == []
