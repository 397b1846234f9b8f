"""AAC in blocks of 96 s, each decoded by a fresh decoder: sound entered in the middle is that of the whole.

FFmpeg's AAC decoder fills bands with noise (PNS) from a generator that runs on from its first packet: entered in the
middle, usual sound differs by up to 0.015 and loud noise by 0.4. So the numbers are tied to a grid that does not depend
on where decoding began: blocks start at whole multiples of ``BLOCK_S`` from time 0 of the medium, and the decoder of
each is fed from ``PREROLL_S`` before it. Decoders change between packets, each of which gives its frame at once: no
sample is added or lost. The first block of a stream is what a plain decode gives.
"""

from collections import deque
from fractions import Fraction
from math import ceil, floor
from typing import Any

import av

from mmray.errors import Reason
from mmray.media.source import MOV, Packet, Source, single_threaded

BLOCK_S = 96
PREROLL_S = 1  # a frame overlaps with one before it; SBR headers come every 0.5 s
# The profiles whose frames need no more than that. (Main and LTP predict from further back, USAC has key frames.)
PROFILES = frozenset({"LC", "HE-AAC", "HE-AACv2"})
MOST_KEPT = 128  # packets in the pre-roll: 94 at 96 kHz, more only where timestamps are damaged


def in_blocks(source: Source, stream: Any) -> bool:
    """Tell whether a stream is decoded in blocks: AAC whose timestamps tell the very sample."""
    context = stream.codec_context
    return (
        source.format == MOV
        and context.codec.canonical_name == "aac"
        and context.profile in PROFILES
        and bool(context.extradata)
        and counts_samples(stream)
    )


def counts_samples(stream: Any) -> bool:
    """Tell whether every timestamp of a sound stream is a whole number of samples."""
    rate_hz = stream.codec_context.sample_rate
    return bool(rate_hz) and (Fraction(rate_hz) * stream.time_base).denominator == 1


def preroll_s(time_s: Fraction) -> int | None:
    """Return from where packets are needed to decode what lies at ``time_s`` of the medium; None: from the start."""
    block = floor(time_s / BLOCK_S)
    return block * BLOCK_S - PREROLL_S if block > 0 else None


class SoundDecoder:
    """The decoders of one sound stream, in turn; ``sought``: the first packet need not be the stream's first.

    In blocks a sought stream is heard from the first block on whose pre-roll is there as a whole. ``entered`` counts
    the blocks that were entered.
    """

    def __init__(self, source: Source, stream: Any, sought: bool) -> None:
        self._source, self._stream = source, stream
        self._blocks, self._sought = in_blocks(source, stream), sought
        self._decoder = None if self._blocks and sought else stream.codec_context
        self.entered = 0
        self._next_s: int | None = None  # where the next block starts, in the medium
        self._kept: deque[Packet] = deque(maxlen=MOST_KEPT)

    def decode(self, packet: Packet | None) -> tuple[list[Any], Reason | None]:
        """Decode a packet (None: what the decoder still holds) to frames, and what was wrong with it."""
        if self._blocks and packet is not None and packet.pts is not None:
            self._advance(packet, packet.pts * self._stream.time_base - self._source.zero)
        return ([], None) if self._decoder is None else self._source.decode(self._stream, packet, self._decoder)

    def _advance(self, packet: Packet, at_s: Fraction) -> None:
        """Change the decoder where a packet is the first of a block, or keep the packet where it is pre-roll."""
        if self._next_s is None:
            block = ceil((at_s + PREROLL_S) / BLOCK_S) if self._sought else floor(at_s / BLOCK_S) + 1
            self._next_s = max(1, block) * BLOCK_S
        if at_s >= self._next_s:
            start_s = floor(at_s / BLOCK_S) * BLOCK_S
            self._next_s = start_s + BLOCK_S
            self._enter(start_s)
        elif at_s >= self._next_s - PREROLL_S:
            self._kept.append(packet)

    def _enter(self, start_s: int) -> None:
        """Open the decoder of the block that starts at ``start_s``; what its pre-roll gives is not used."""
        self.entered += 1
        self._decoder = fresh_decoder(self._stream)
        for packet in self._kept:
            if packet.pts * self._stream.time_base - self._source.zero >= start_s - PREROLL_S:
                self._source.decode(self._stream, packet, self._decoder)
        self._kept.clear()


def fresh_decoder(stream: Any) -> Any:
    """Return a decoder of a stream that has decoded nothing yet."""
    decoder = av.CodecContext.create(stream.codec_context.codec, "r")
    decoder.extradata = stream.codec_context.extradata
    single_threaded(decoder)
    return decoder
