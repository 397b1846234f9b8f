"""Files that are given: what a small one can hold, claim or ask for."""

import io
import struct
import wave
import zlib

import numpy as np
import pytest

from mmray.generation import files
from mmray.generation.base import RequestError


def claimed(width: int, height: int) -> bytes:
    """Return the PNG of a few bytes that claims to be so large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8001, 12_000, 20_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked(side: int) -> None:
    with pytest.raises(RequestError, match=r"^image: has .*64,000,000") as refused:
        files.picture_of(claimed(side, 8000), "image")
    assert refused.value.field == "image"


def test_a_list_of_files_opens_none_of_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(files.wav(np.ones(1600, np.float32), 16_000))
    for text in (
        "ffconcat version 1.0\nfile secret.wav\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
    ):
        with pytest.raises(RequestError, match="no sound that can be read"):
            files.sound_of(text.encode(), "file", 60)


def test_a_sound_is_as_long_as_it_is_whatever_rate_it_claims() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(4_000_000)
        out.writeframes(bytes(8_000_000))
    sound, rate_hz = files.sound_of(file.getvalue(), "file", 60)
    assert (rate_hz, len(sound)) == (48_000, pytest.approx(48_000, abs=100))
    with pytest.raises(RequestError, match="lasts more than"):
        files.sound_of(file.getvalue(), "file", 0.5)
