"""A medium whose server fails is unavailable, wherever in the work it fails; never corrupt, truncated or done."""

import io
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from mmray import retries, storage
from mmray.errors import Reason, SampleError
from mmray.media.decode import decode
from mmray.media.probe import probe, scanned_s
from mmray.media.source import Source
from mmray.specs import AudioSpec, Frame, FrameSpec, Item, Wave
from tests.faults.proxy import Fault, FaultProxy, Kind
from tests.faults.web import web

FRAMES = 60  # 13 MB: three blocks of a remote file


def film(path: Path) -> bytes:
    codec, pixels = ("png", "rgb24") if path.suffix == ".mov" else ("ffv1", "bgr0")
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, width=320, height=240, pix_fmt=pixels)
        for _ in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(noise.integers(0, 255, (240, 320, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((2, 2, 48_000, 0, "NONE", ""))
        writer.writeframes(np.random.default_rng(0).integers(-9000, 9000, 6_000_000, np.int16).tobytes())
    return file.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("films")
    return {name: film(folder / name) for name in ("a.mkv", "a.mov", "a.avi")} | {"a.wav": sound()}


@pytest.fixture
def proxy(files: dict[str, bytes]) -> Iterator[FaultProxy]:
    before_s = retries.retry_limit_s()
    with web(files) as endpoint, FaultProxy(endpoint) as proxy:
        yield proxy
    storage.set_retry_limit_s(before_s)


NAMES = ["a.mkv", "a.mov", "a.avi", "a.wav"]
FRAME = FrameSpec(fps=1, side_px=32)
SOUND = AudioSpec(rate_hz=16_000, window_s=1, hop_s=1)


def numbers(item: Item) -> np.ndarray:
    assert isinstance(item, Frame | Wave)
    return item.image if isinstance(item, Frame) else item.samples


def unavailable(error: SampleError) -> None:
    assert error.reason is Reason.UNAVAILABLE
    assert error.status == "pending"
    assert "503" in error.detail


@pytest.mark.parametrize("name", NAMES)
def test_a_medium_that_cannot_be_opened_is_unavailable(name: str, proxy: FaultProxy) -> None:
    storage.set_retry_limit_s(0.2)
    proxy.inject(Fault(Kind.ERROR))
    with pytest.raises(SampleError) as caught:
        probe(f"{proxy.endpoint}/{name}")
    unavailable(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_medium_that_fails_while_it_is_read_is_unavailable(name: str, proxy: FaultProxy) -> None:
    storage.set_retry_limit_s(0.2)
    source = Source(f"{proxy.endpoint}/{name}")
    try:
        source.want([*source.container.streams])
        assert source.read() is not None
        proxy.inject(Fault(Kind.ERROR))
        with pytest.raises(SampleError) as caught:
            while source.read() is not None:
                pass
        unavailable(caught.value)
        sent = proxy.count()
        with pytest.raises(SampleError):  # at once, without another limit of retries
            source.read()
        assert proxy.count() == sent
    finally:
        source.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_medium_that_fails_while_it_is_sought_is_unavailable(name: str, proxy: FaultProxy) -> None:
    storage.set_retry_limit_s(0.2)
    source = Source(f"{proxy.endpoint}/{name}")
    try:
        stream = source.video or source.audio[0]
        source.want([stream])
        proxy.inject(Fault(Kind.ERROR))
        with pytest.raises(SampleError) as caught:
            source.seek(stream, 50.0 if name == "a.wav" else 5.0)
            source.read()
        unavailable(caught.value)
    finally:
        source.close()


@pytest.mark.parametrize("name", NAMES)
def test_decoding_and_scanning_end_as_unavailable_and_not_as_the_end(name: str, proxy: FaultProxy) -> None:
    storage.set_retry_limit_s(0.2)
    spec = SOUND if name.endswith("wav") else FRAME
    uri = f"{proxy.endpoint}/{name}"
    for read in (lambda: list(decode(uri, [spec], 0.0, None)), lambda: scanned_s(uri)):
        proxy.clear()
        proxy.inject(Fault(Kind.ERROR, skip=1))
        with pytest.raises(SampleError) as caught:
            read()
        unavailable(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_faults_that_pass_change_no_number(
    name: str, proxy: FaultProxy, files: dict[str, bytes], tmp_path: Path
) -> None:
    storage.set_retry_limit_s(30)
    spec = SOUND if name.endswith("wav") else FRAME
    (tmp_path / name).write_bytes(files[name])
    local = [item for _, item in decode(str(tmp_path / name), [spec], 0.0, None)]
    proxy.inject(Fault(Kind.CUT_BODY, count=2))
    proxy.inject(Fault(Kind.RESET, skip=1, count=1))
    remote = [item for _, item in decode(f"{proxy.endpoint}/{name}", [spec], 0.0, None)]
    assert proxy.count(fault=Kind.CUT_BODY) == 2
    assert proxy.count(fault=Kind.RESET) == 1
    assert len(remote) == len(local) > 0
    for one, other in zip(remote, local, strict=True):
        assert np.array_equal(numbers(one), numbers(other))


@pytest.mark.parametrize("habit", ["no-length", "chunked", "no-ranges"])
def test_servers_that_give_no_parts_cost_no_run(habit: str, proxy: FaultProxy) -> None:
    assert probe(f"{proxy.upstream}/a.mov?{habit}").duration_s == FRAMES / 10


def test_the_reason_tells_missing_from_denied_and_broken(proxy: FaultProxy, tmp_path: Path) -> None:
    storage.set_retry_limit_s(0.2)
    reasons = {}
    for path in ("none", "404", "401", "403", "400", "503", "429"):
        with pytest.raises(SampleError) as caught:
            probe(f"{proxy.endpoint}/{path}")
        reasons[path] = caught.value.reason
        assert f"{proxy.endpoint}/{path}" in caught.value.detail
        assert ("404" if path == "none" else path) in caught.value.detail
    assert reasons == {
        "none": Reason.MISSING_FILE, "404": Reason.MISSING_FILE, "401": Reason.ACCESS_DENIED,
        "403": Reason.ACCESS_DENIED, "400": Reason.UNREADABLE, "503": Reason.UNAVAILABLE, "429": Reason.UNAVAILABLE,
    }  # fmt: skip
    for uri, reason in {
        str(tmp_path / "none"): Reason.MISSING_FILE, str(tmp_path): Reason.UNREADABLE,
        "nul\0": Reason.UNREADABLE, "http://127.0.0.1:9/a": Reason.UNAVAILABLE, "http://[": Reason.UNREADABLE,
        "unknown://a/b": Reason.UNREADABLE,
    }.items():  # fmt: skip
        with pytest.raises(SampleError) as caught:
            probe(uri)
        assert caught.value.reason is reason
