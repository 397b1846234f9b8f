"""The one door to a medium: open it, choose its streams, read packets and decode them whatever they hold.

Media are always read through a file object from ``storage`` and never by name, so that names with %, : or quotes and
remote URLs work alike, and a playlist cannot reach other files.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import av.error
import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from mmray import storage
from mmray.errors import Reason, SampleError

if TYPE_CHECKING:
    Packet = av.Packet[Any]
else:
    Packet = av.Packet  # not generic when it runs

# What decoders say belongs to the sample they say it about, not on the screen: it is captured per call.
av.logging.set_level(av.logging.ERROR)
av.logging.set_skip_repeated(False)
logging.getLogger("libav").addHandler(logging.NullHandler())

CONTAINER = -1  # stands for the container where a stream's number is asked for
MAX_PIXELS = 100_000_000
MAX_DEMUX_ERRORS = 1000  # in a row: a demuxer that no longer moves
BUFFER_BYTES = 128 * 1024
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
STILL_BRANDS = frozenset({"avif", "heic", "heix", "heim", "heis", "mif1"})
# Marks a JPEG with further pictures behind the first (gain maps of phones, CIPA DC-007); FFmpeg may see a video in it.
MULTI_PICTURE = b"MPF\0"
HEAD_BYTES = 128 * 1024  # Exif before that mark takes 64 KiB at most
# Formats that only name other files.
PLAYLISTS = frozenset({"hls", "concat", "sdp", "rtsp", "dash", "imf", "mpegtsraw"})
# Timestamps may start anew in the middle.
DISCONTINUOUS = frozenset({"mpegts", "mpeg"})
MAGIC = (b"\x1aE\xdf\xa3", b"RIFF", b"OggS", b"fLaC", b"ID3", b"FLV", b"FORM", b"GIF8", b"\x89PNG", b"\xff\xd8\xff",
         b"\0\0\x01\xba", b"0&\xb2u", b"II*\0", b"MM\0*", b"#!AMR", b"caff")  # fmt: skip
MAGIC_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"styp", b"moof")


def reason_of(error: av.FFmpegError) -> Reason:
    """Name what an error of FFmpeg says about a sample; MemoryError is the machine's and is raised again."""
    if isinstance(error, MemoryError):
        raise error
    lacking = (
        av.error.LookupError,  # no decoder, demuxer, protocol, filter of that name
        av.error.PatchWelcomeError,
        av.error.ExperimentalError,
        av.error.NotImplementedError,
    )
    return Reason.UNSUPPORTED if isinstance(error, lacking) else Reason.CORRUPT


class _Nameless:
    """Show FFmpeg the content only: it would take ``%d`` or ``*`` in a name for a pattern of many files.

    ``error``: of a read or seek. FFmpeg takes it for damage or for the end of the file; after it nothing is read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.close = file.tell, file.close
        self.error: OSError | None = None

    def read(self, size: int) -> bytes:
        """Read."""
        with self._kept():
            return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        with self._kept():
            return self._file.seek(offset, whence)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        if self.error is not None:
            raise self.error
        try:
            yield
        except OSError as error:
            self.error = error
            raise


class Source:
    """An opened medium.

    ``video`` is the first video stream that is not cover art, ``audio`` all sound streams in their order, ``zero``
    the timestamp in seconds that counts as time 0.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._messages: dict[int, str] = {}
        self._held: deque[Packet] = deque()
        self._demuxed: Iterator[Packet] = iter(())
        self._wanted: list[Any] = []
        self._errors_in_row = 0
        self._moved = 0
        self.demux_errors = 0
        self._file = _Nameless(_opened(uri))
        try:
            self.container = self._open()
            self._survey()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> InputContainer:
        self._head = self._read_head()
        try:
            with self._listening():
                container = av.open(
                    self._file,
                    buffer_size=BUFFER_BYTES,
                    metadata_errors="replace",
                    # No demuxer may open anything else: playlists fail here.
                    container_options={"protocol_whitelist": "none"},
                )
        except av.FFmpegError as error:
            known = self._head.startswith(MAGIC) or self._head[4:8] in MAGIC_BOXES
            reason = Reason.TRUNCATED if known and reason_of(error) is Reason.CORRUPT else Reason.UNSUPPORTED
            raise SampleError(reason, self.message(CONTAINER)) from error
        assert isinstance(container, InputContainer)
        return container

    def _read_head(self) -> bytes:
        with self._listening():
            head = self._file.read(HEAD_BYTES)
            self._file.seek(0)
        if not head:
            raise SampleError(Reason.EMPTY, "the file has no bytes")
        return head

    def _survey(self) -> None:
        self.format = self.container.format.name
        if PLAYLISTS.intersection(self.format.split(",")):
            raise SampleError(Reason.UNSUPPORTED, f"{self.format} names other files; give the media themselves")
        streams = self.container.streams
        self.audio: tuple[AudioStream, ...] = streams.audio
        moving = [s for s in streams.video if not s.disposition & (Disposition.attached_pic | 1 << 11)]
        self.video: VideoStream | None = next(iter(moving), None)
        brand = self.container.metadata.get("major_brand", "")
        self.still = (
            self.format.endswith("_pipe")
            or (self.format == MOV and brand in STILL_BRANDS)
            or (self.format == "mjpeg" and MULTI_PICTURE in self._head)
        )
        if self.still and any(s.codec_context is None for s in moving):
            raise SampleError(Reason.UNSUPPORTED, f"there is no decoder for {self.format.removesuffix('_pipe')}")
        if self.still and sum(s.width == moving[0].width for s in moving) > 2:
            raise SampleError(Reason.UNSUPPORTED, "picture of tiles (HEIF grid); convert it to JPEG or PNG")
        self.zero = self._zero()

    def _zero(self) -> Fraction:
        """Return the container's start time, taken from the stream it stands for: the container rounds to 1 us."""
        if self.still or self.container.start_time is None:
            return Fraction(0)
        zero = Fraction(self.container.start_time, av.time_base)
        starts = [start for s in self.container.streams if (start := stream_start(s)) is not None]
        return min(starts, key=lambda start: abs(start - zero), default=zero)

    @contextmanager
    def _listening(self, stream: int = CONTAINER) -> Iterator[None]:
        """Keep the last complaint of what runs in this thread, as one about ``stream``.

        Where the file could not be read, that is what is raised, whatever FFmpeg made of it.
        """
        with av.logging.Capture() as logs:
            try:
                yield
            except av.FFmpegError as error:
                self.note(stream, str(error.strerror))
                raise
            finally:
                for level, name, text in logs:
                    if level <= av.logging.ERROR:
                        self.note(stream, f"{name}: {text.strip()}")
                if self._file.error is not None:
                    raise storage.sample_error(self.uri, self._file.error) from self._file.error

    def note(self, stream: int, message: str) -> None:
        """Keep a complaint about a stream."""
        self._messages[stream] = message

    def complaint(self, stream: int) -> str:
        """Return the last complaint about a stream alone; empty where there was none."""
        return self._messages.get(stream, "")

    def message(self, stream: int) -> str:
        """Return the last complaint about a stream, or else about the container."""
        return self._messages.get(stream) or self._messages.get(CONTAINER, "")

    def want(self, streams: list[Any]) -> None:
        """Read only ``streams`` from here on; demuxers skip the bytes of the others where they can."""
        self._wanted = streams
        for stream in self.container.streams:
            stream.discard = Discard.default if stream in streams else Discard.all
        self._restart()

    def _restart(self) -> None:
        self._held.clear()
        self._demuxed = self.container.demux(self._wanted)

    def read(self) -> Packet | None:
        """Return the next packet, None at the end; damage is counted in ``demux_errors`` and passed over."""
        if self._held:
            return self._held.popleft()
        while self._errors_in_row < MAX_DEMUX_ERRORS:
            try:
                with self._listening():
                    packet = next(self._demuxed)
            except StopIteration:
                return None
            except av.FFmpegError as error:
                reason_of(error)
                self.demux_errors += 1
                self._errors_in_row += 1
                self._demuxed = self.container.demux(self._wanted)
                continue
            self._errors_in_row = 0
            # Empty packets (dropped frames of AVI, PyAV's own flush) would end the decoder for good.
            if packet.size:
                if self._moved and packet.pts is not None:
                    packet.pts += self._moved
                return packet
        return None

    def hold(self, packets: list[Packet]) -> None:
        """Give packets back, to be read again first."""
        self._held.extendleft(reversed(packets))

    def seek(self, stream: Any, time_s: float) -> bool:
        """Go to the key packet at or before a time; tell whether the demuxer could."""
        return self._seek(int((Fraction(time_s) + self.zero) / stream.time_base), stream=stream)

    def seek_pts(self, stream: Any, pts: int) -> bool:
        """Go to the key packet at or before a timestamp of a stream, by the index of the stream that has the best."""
        return self._seek(floor(pts * stream.time_base * av.time_base))

    def seek_byte(self, pos: int) -> bool:
        """Go to a byte of the file, where a packet starts; tell whether the demuxer could."""
        return self._seek(pos, unsupported_byte_offset=True)

    def _seek(self, offset: int, **how: Any) -> bool:
        try:
            with self._listening():
                self.container.seek(offset, **how)
        except av.FFmpegError as error:
            reason_of(error)
            return False
        self._restart()
        return True

    def move(self, offset: int) -> None:
        """Add ``offset`` to the timestamps of all packets that are read from here on."""
        self._moved = offset

    def decode(self, stream: Any, packet: Packet | None, decoder: Any = None) -> tuple[list[Any], Reason | None]:
        """Decode a packet (None: what the decoder still holds) to frames, and what was wrong with it.

        ``decoder``: another one than the stream's own.
        """
        try:
            with self._listening(stream.index):
                return (decoder or stream.codec_context).decode(packet), None
        except av.FFmpegError as error:
            return [], reason_of(error)

    def close(self) -> None:
        """Close the medium."""
        self._demuxed = iter(())
        self.container.close()
        self._file.close()


def prepare(stream: Any) -> None:
    """Let a stream decode in the calling thread; raise ``unsupported`` or ``too_large`` where it cannot be decoded."""
    if stream.codec_context is None:
        raise SampleError(Reason.UNSUPPORTED, f"no decoder for {stream.type} stream {stream.index}")
    if stream.type == "video":
        check_size(stream.codec_context.width, stream.codec_context.height)
    single_threaded(stream.codec_context)


def single_threaded(decoder: Any) -> None:
    """Let a decoder that is not open yet decode in the calling thread."""
    decoder.thread_type = "NONE"
    decoder.thread_count = 1


def check_size(width: int, height: int) -> None:
    """Raise ``too_large`` for pictures beyond 100 megapixels."""
    if width * height > MAX_PIXELS:
        raise SampleError(Reason.TOO_LARGE, f"{width} x {height} pixels; at most {MAX_PIXELS:,} are decoded")


def stream_start(stream: Any) -> Fraction | None:
    """Return a stream's first timestamp in seconds, where known."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return Fraction(stream.start_time * stream.time_base)


def _opened(uri: str) -> BinaryIO:
    try:
        return storage.open_read(uri)
    except OSError as error:
        raise storage.sample_error(uri, error) from error
