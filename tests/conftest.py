"""What tests share: the data folder, Ray's settings, small stores."""

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
# Tests run side by side, as actors do: threads of several that wait for each other on one core made 2 s of training 36.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The longest files, longest first: two processes share the files, and a long one that starts last is waited for.
LONGEST = [
    "test_train", "test_crashes", "test_faults", "test_serve", "test_train_text", "test_extract", "test_job",
    "test_serve_page", "test_object_storage", "test_real_media", "test_study", "test_search", "test_search_map",
    "test_configs", "test_interrupts", "test_storage_faults", "test_absent_sources", "test_attempts", "test_verify",
    "test_lease", "test_generate", "test_derived", "test_report", "test_evaluate", "test_dalle_mini", "test_crossmodal",
    "test_transnetv2", "test_contract", "test_transcribe", "test_text_fitting", "test_spectrogram", "test_fitting",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the tests of a file stay in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real media; without it tests skip, but never in CI."""
    folder = Path(os.environ.get("MMRAY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{folder} is missing: in CI the real media must be there")
        pytest.skip(f"no real media in {folder} (MMRAY_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make every tiny checkpoint, once for all rooms: 6 s of a core. Who changes one copies it first."""
    from mmray.models.tiny import make_tiny

    folder = tmp_path_factory.mktemp("tiny") / "models"
    make_tiny(folder)
    return folder


@pytest.fixture
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window; where there is none tests skip, but never in CI.

    For one test: playwright keeps an event loop running, which code that starts one of its own would trip over.
    """
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing: in CI the pages must be looked at")
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to be root inside its sandbox
        browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file in which the S3 server logs its requests."""
    return tmp_path_factory.mktemp("s3") / "log"


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """Put credentials and endpoint of the S3 server into the environment (the standard chain), and return them.

    For the whole session, and before Ray starts: its workers have the environment that Ray was started in, and so a run
    over S3 needs no Ray of its own. The server itself starts where a test asks for a bucket.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        "AWS_ACCESS_KEY_ID": "AKIAMMRAYTEST",
        "AWS_SECRET_ACCESS_KEY": "mmraytestsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


@pytest.fixture(scope="session")
def s3_endpoint(s3_log: Path, s3_environment: dict[str, str]) -> Iterator[str]:
    """Start moto's S3 server as a process of its own on loopback.

    moto, because it honours If-None-Match and ETags as AWS does, on which the lock and the detection of changes stand;
    `rclone serve s3` ignores If-None-Match.
    """
    endpoint = s3_environment["AWS_ENDPOINT_URL"]
    port = int(endpoint.rpartition(":")[2])
    log = s3_log.open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
    )
    try:
        for _ in range(600):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        yield endpoint
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.fixture
def s3_bucket(s3_endpoint: str) -> str:
    """Return the URL of a new bucket."""
    import s3fs

    name = f"mmray-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
