"""One decoded frame to the small upright squares that models see."""

from functools import cached_property
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import BlockingIOError as Again
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from mmray.geometry import Placement, placed
from mmray.media import orientation
from mmray.media.source import MOV, Packet, Source, check_size
from mmray.specs import FrameSpec

Image = npt.NDArray[np.uint8]

# Rounding and C code paths that give the same bytes on every machine cost nothing measurable beside the scaling;
# chroma at full resolution costs 0.4 ms of 1.8 ms per 224 px frame and is what a reader of RGB images expects.
EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
SCALERS = {
    "bilinear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "area": Interpolation.AREA,
    "linear": Interpolation.BICUBIC,  # of the colours alone: `linear` scales
}
WEIGHT_BITS = 11  # OpenCV's fixed point: a weight of 1 is 2048


ASPECTS = (1 / 16, 16)  # pixel aspects beyond are damage


def pixel_aspect(source: Source) -> float:
    """Return width over height of the video's pixels; those of still images count as square, as image readers do."""
    aspect = 1.0 if source.still or source.video is None else float(source.video.sample_aspect_ratio or 1)
    return aspect if ASPECTS[0] <= aspect <= ASPECTS[1] else 1.0


def still_orientation(source: Source, packet: Packet) -> orientation.Orientation | None:
    """Return the Exif orientation of a still image; None where frames carry a display matrix that can be read."""
    return orientation.of_exif(bytes(packet)) if source.still and source.format != MOV else None


class Picture:
    """A frame with what is needed to show it upright; ``orient`` None reads the frame's own display matrix."""

    def __init__(self, frame: av.VideoFrame, aspect: float, orient: orientation.Orientation | None) -> None:
        check_size(frame.width, frame.height)
        self._frame, self._aspect, self._orient = frame, aspect, orient

    @cached_property
    def orient(self) -> orientation.Orientation:
        """Return how its pixels become upright."""
        return self._orient or orientation.of_frame(self._frame)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return width and height, upright and with square pixels."""
        return self.orient.size(max(1, round(self._frame.width * self._aspect)), self._frame.height)

    @cached_property
    def opaque(self) -> av.VideoFrame:
        """Return the frame without transparency: laid over white."""
        if not (self._frame.format.name == "pal8" or any(c.is_alpha for c in self._frame.format.components)):
            return self._frame
        rgba = self._frame.to_ndarray(format="rgba").astype(np.uint16)
        alpha = rgba[..., 3:]
        rgb = (rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")


class Scaler:
    """Turn pictures into images as one spec wants them; keeps swscale's state from frame to frame."""

    def __init__(self, spec: FrameSpec) -> None:
        self._spec = spec
        self._flags = SCALERS[spec.interpolation] | EXACT
        self._reformatter = VideoReformatter()
        self._cutter = VideoReformatter()

    def content(self, picture: Picture) -> tuple[Image, Placement]:
        """Return what is seen of the picture, uint8 RGB (height, width, 3) without padding, and its placement."""
        place = placed(self._spec, *picture.size)
        side = self._spec.side_px
        whole = (round(place.source_width_px * place.scale_x), round(place.source_height_px * place.scale_y))
        if whole[0] * whole[1] <= 4 * max(picture.size[0] * picture.size[1], side * side):
            image = self._scaled(picture, *whole)
            left = round(place.box_left_px * place.scale_x) + max(0, -place.left_px)
            top = round(place.box_top_px * place.scale_y) + max(0, -place.top_px)
        else:
            image, left, top = self._cut(picture, place)
        width, height = min(place.width_px, side), min(place.height_px, side)
        left, top = min(left, image.shape[1] - width), min(top, image.shape[0] - height)
        return image[top : top + height, left : left + width], place

    def paint(self, content: Image, place: Placement) -> Image:
        """Return the finished image, uint8 (height_px or side_px, side_px, channels)."""
        spec = self._spec
        shape = (spec.height_px or spec.side_px, spec.side_px)
        if spec.channels == 1:
            content = luma(content)
        if content.shape[:2] == shape:
            return np.ascontiguousarray(content)
        image = np.full((*shape, spec.channels), spec.fill, np.uint8)
        top, left = max(0, place.top_px), max(0, place.left_px)
        image[top : top + content.shape[0], left : left + content.shape[1]] = content
        return image

    def _scaled(self, picture: Picture, width: int, height: int) -> Image:
        stored = picture.orient.size(width, height)
        return picture.orient.apply(self._rgb(self._reformatter, picture.opaque, *stored))

    def _cut(self, picture: Picture, place: Placement) -> tuple[Image, int, int]:
        """Cut what will be seen out of the picture at its own size, then scale: for small parts of big pictures."""
        upright = self._rgb(self._cutter, picture.opaque, *picture.orient.size(*picture.size))
        upright = picture.orient.apply(upright)
        rows, top, height = _seen(-place.top_px, place.scale_y, place.box_height_px, self._spec.side_px)
        columns, left, width = _seen(-place.left_px, place.scale_x, place.box_width_px, self._spec.side_px)
        part = upright[place.box_top_px :, place.box_left_px :][rows, columns]
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
        return self._rgb(self._reformatter, frame, width, height), left, top

    def _rgb(self, reformatter: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> Image:
        sampled = self._spec.interpolation == "linear"
        if sampled:
            width, height, wanted = frame.width, frame.height, (width, height)
        scaled = reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=self._flags, threads=1
        )
        image = np.asarray(scaled.to_ndarray(), np.uint8)
        return linear(image, *wanted) if sampled else image


def _seen(start_px: int, scale: float, length: int, side: int) -> tuple[slice, int, int]:
    """Return which source pixels reach the output, where the output starts in them scaled, and their scaled length."""
    first = int(max(0, start_px) / scale)
    last = min(length, int(np.ceil((max(0, start_px) + side) / scale)))
    return slice(first, last), round(max(0, start_px) - first * scale), max(1, round((last - first) * scale))


def linear(image: Image, width: int, height: int) -> Image:
    """Scale uint8 (h, w, channels) as OpenCV's INTER_LINEAR does, to the bit: four neighbours, no smoothing before.

    Its fixed point: weights of 11 bits, across first, the sums cut to 15 bits below the vertical weights.
    """
    left, right, left_weight, right_weight = _neighbours(image.shape[1], width)
    above, below, above_weight, below_weight = _neighbours(image.shape[0], height)
    rows, place = np.unique(np.concatenate([above, below]), return_inverse=True)  # a small picture needs few of them
    image = image[rows] if len(rows) < len(image) else image
    across = image.take(left, 1) * left_weight[:, None] + image.take(right, 1) * right_weight[:, None] >> 4
    upper, lower = across[place[:height]], across[place[height:]]
    upper *= above_weight[:, None, None]
    lower *= below_weight[:, None, None]
    scaled: Image = ((upper >> 16) + (lower >> 16) + 2 >> 2).astype(np.uint8)
    return scaled


def _neighbours(length: int, wanted: int) -> tuple[npt.NDArray[Any], ...]:
    """Return the two source pixels of each of ``wanted`` pixels along one side, and their weights (int32)."""
    centre = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    first = np.floor(centre)
    pixels = (np.clip(first + step, 0, length - 1).astype(np.intp) for step in (0, 1))
    ahead = centre - first
    weights = (np.rint(part * 2**WEIGHT_BITS).astype(np.int32) for part in (1 - ahead, ahead))
    return (*pixels, *weights)


def luma(rgb: Image) -> Image:
    """Return grey of full range (height, width, 1): ITU-R BT.601 weights in 16 bits, as Pillow's mode L."""
    weighted = rgb.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., np.newaxis]


class Deinterlacer:
    """bwdif, one frame out for each frame in; frames that are not flagged interlaced pass untouched."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._shape: tuple[Any, ...] = ()

    def push(self, frame: av.VideoFrame) -> list[av.VideoFrame]:
        """Feed a frame, return those that are ready: it runs one frame late."""
        shape = (frame.width, frame.height, frame.format.name)
        ready = self.flush() if shape != self._shape else []
        if self._graph is None:
            self._graph, self._shape = self._build(frame), shape
        self._graph.push(frame)
        return ready + self._pull()

    def flush(self) -> list[av.VideoFrame]:
        """Return what is still inside."""
        if self._graph is None:
            return []
        self._graph.push(None)
        ready = self._pull()
        self._graph = None
        return ready

    def _build(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        bwdif = graph.add("bwdif", mode="send_frame", deint="interlaced")
        graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
        return graph

    def _pull(self) -> list[av.VideoFrame]:
        assert self._graph is not None
        ready = []
        while True:
            try:
                ready.append(self._graph.vpull())
            except (Again, av.error.EOFError):
                return ready
