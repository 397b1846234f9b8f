"""A small synthetic corpus to try everything on: moving shapes that sound, their descriptions, and awkward files.

Every clip shows one shape (the label, and its folder) and mostly sounds as that shape sounds, so that picture, sound
and text each say something about the label. The same seed gives the same bytes.
"""

import csv
import heapq
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmray.errors import ConfigError

if TYPE_CHECKING:
    from av import AudioFrame, Packet, VideoFrame

WIDTH_PX, HEIGHT_PX = 160, 120
SPLITS = ("train", "train", "train", "train", "val", "test")  # one camera each: a fair split cuts through none
MARKER = ".corpus.json"
MARKER_VERSION = 1

# (edges, inset, needed): the shape is where `needed` of `edges` half-planes, `inset` away from its centre, hold.
SHAPES = {"circle": (24, 0.99, 24), "square": (4, 0.71, 4), "triangle": (3, 0.5, 3), "star": (5, 0.31, 4)}
SOUNDS = {"circle": "beeps", "square": "noise", "triangle": "sweep", "star": "plucks"}
COLOURS = {"red": (230, 40, 40), "yellow": (240, 220, 40), "green": (50, 200, 60), "blue": (60, 90, 240)}
BLACK = "black"
PAINT = COLOURS | {BLACK: (0, 0, 0)}

# One line per language, in the order of WORDS.
WORDS = (*SHAPES, *COLOURS, *SOUNDS.values())
ENGLISH = "circle, square, triangle, star, red, yellow, green, blue, short beeps, noise, a rising tone, plucked strings"
GERMAN = "Kreis, Quadrat, Dreieck, Stern, Rot, Gelb, Grün, Blau, Pieptöne, Rauschen, steigende Töne, gezupfte Saiten"
CHINESE = "圆形, 正方形, 三角形, 星形, 红色, 黄色, 绿色, 蓝色, 短促的哔哔声, 阵阵噪声, 逐渐升高的声音, 拨弦声"
ARABIC = "دائرة, مربع, مثلث, نجمة, الأحمر, الأصفر, الأخضر, الأزرق, صفير قصير, ضجيج متقطع, نغمة صاعدة, أوتار منقورة"
SENTENCES = (
    ("A {colour} {shape} moves across the picture while one hears {sound}.", ENGLISH),
    ("Ein {shape} in {colour} wandert durchs Bild, dazu hört man {sound}.", GERMAN),
    ("The camera follows a {shape} in {colour}; one can hear {sound}.", ENGLISH),
    ("一个{colour}的{shape}在画面中移动，同时可以听到{sound}。", CHINESE),
    ("🎬 Look, a {colour} {shape}! 🔊 Listen: {sound} 🙂", ENGLISH),
    ("حركة {shape} باللون {colour} مع {sound}.", ARABIC),
)


@dataclass(frozen=True)
class Clip:
    """One row of descriptions.csv; a shape or sound that is missing or changes is empty, like an awkward split."""

    file: str
    label: str
    text: str
    shape: str
    sound: str
    matching: bool
    second_track: bool
    group: str
    split: str


@dataclass(frozen=True)
class Corpus:
    """What ``make_corpus`` leaves; ``made`` is false where it was there already."""

    folder: Path
    descriptions: Path
    clips: tuple[Clip, ...]
    made: bool


@dataclass(frozen=True)
class Form:
    """How a clip is stored."""

    suffix: str
    video: str
    audio: str
    fps: int
    rate_hz: int


@dataclass(frozen=True)
class Scene:
    """What is seen and heard up to the next cut; no shape in any scene is no picture, no sound in any no sound."""

    shape: str
    sound: str
    colour: str
    duration_s: float


@dataclass(frozen=True)
class Recording:
    """All that decides the bytes of one clip; ``kept`` is how much of the file is left."""

    clip: Clip
    scenes: tuple[Scene, ...]
    form: Form
    seed: tuple[int, int]
    steady: bool = True
    kept: float = 1.0


MP4 = Form(".mp4", "libx264", "aac", fps=30, rate_hz=44_100)
LONG = Form(".mp4", "libx264", "aac", fps=5, rate_hz=16_000)
FORMS = (
    MP4,
    Form(".webm", "libvpx", "libopus", fps=24, rate_hz=48_000),
    Form(".mkv", "libx264", "flac", fps=12, rate_hz=16_000),
    Form(".webm", "libvpx-vp9", "libopus", fps=15, rate_hz=48_000),
    Form(".avi", "mpeg4", "libmp3lame", fps=20, rate_hz=32_000),
    Form(".mpg", "mpeg2video", "mp2", fps=25, rate_hz=48_000),
)
PICTURE: dict[str, Any] = {"width": WIDTH_PX, "height": HEIGHT_PX, "pix_fmt": "yuv420p"}
EXACT = {"flags": "+bitexact", "threads": "1"}
SPEED = {
    "libx264": {"preset": "ultrafast", "crf": "28", "g": "250"},
    "libvpx": {"deadline": "realtime", "cpu-used": "-8"},  # negative: fixed; VP8 adapts 8 to how busy the machine is
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}


def make_corpus(folder: Path, seed: int = 0) -> Corpus:
    """Make the corpus of this seed in a new or empty folder; leave it alone where it is there already."""
    if seed < 0:
        raise ConfigError(f"--seed {seed}: give 0 or more")
    folder = folder.resolve()
    recordings = plan(seed)
    clips = tuple(recording.clip for recording in recordings)
    made = not _there_already(folder, seed)
    if made:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as building:
            stage = Path(building) / folder.name
            for recording in recordings:
                record(recording, stage / recording.clip.file)
            _describe(clips, stage / "descriptions.csv")
            (stage / MARKER).write_text(_marker(seed), encoding="utf-8")
            stage.replace(folder)
    return Corpus(folder, folder / "descriptions.csv", clips, made)


def _marker(seed: int) -> str:
    return json.dumps({"version": MARKER_VERSION, "seed": seed}) + "\n"


def _there_already(folder: Path, seed: int) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file: name a new or empty folder")
    marker = folder / MARKER
    if marker.is_file():
        if marker.read_text(encoding="utf-8") == _marker(seed):
            return True
        raise ConfigError(f"{folder} holds the demo corpus of another seed or version: name a new or empty folder")
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no demo corpus: name a new or empty folder")
    return False


def _describe(clips: Iterable[Clip], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Clip)], lineterminator="\n")
        rows.writeheader()
        for clip in clips:
            # CSV readers know true and false, not Python's True and False.
            rows.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in asdict(clip).items()})


def plan(seed: int) -> list[Recording]:
    """Return every recording of the corpus: six cameras film each shape once, then the awkward ones."""
    regular = [_regular(seed, kind, camera) for kind in range(len(SHAPES)) for camera in range(len(SPLITS))]
    return regular + _awkward(seed, len(regular))


def _regular(seed: int, kind: int, camera: int) -> Recording:
    """Plan one clip; storage, language and mismatch rotate against the cameras, so that none gives the label away."""
    number = kind * len(SPLITS) + camera
    rng = np.random.default_rng((seed, number))
    shape, sounds = list(SHAPES)[kind], list(SOUNDS.values())
    matching = (camera + 2 * kind) % 3 > 0
    sound = sounds[(kind + (0 if matching else 1 + int(rng.integers(3)))) % len(sounds)]
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    form = FORMS[(camera + kind) % len(FORMS)]
    sentence, language = SENTENCES[(camera - kind) % len(SENTENCES)]
    words = dict(zip(WORDS, language.split(", "), strict=True))
    clip = Clip(
        file=f"{shape}/{shape}_{camera + 1}{form.suffix}",
        label=shape,
        text=sentence.format(shape=words[shape], colour=words[colour], sound=words[sound]),
        shape=shape,
        sound=sound,
        matching=matching,
        second_track=(camera + kind) % 4 == 0,
        group=f"camera_{camera + 1}",
        split=SPLITS[camera],
    )
    return Recording(clip, (Scene(shape, sound, colour, int(rng.integers(8, 13)) / 2),), form, (seed, number))


def _awkward(seed: int, first: int) -> list[Recording]:
    """Plan the clips that make trouble, each in one way."""
    circle, star = Scene("circle", "beeps", "red", 6), Scene("star", "plucks", "green", 6)
    kinds, colours = list(SOUNDS.items()), list(COLOURS)
    minutes = [Scene(*kinds[k % 4], colours[(k + k // 4) % 4], 60) for k in range(12)]
    numbers = count(first)

    def case(name: str, text: str, *scenes: Scene, form: Form = MP4, steady: bool = True, kept: float = 1) -> Recording:
        shapes = {scene.shape for scene in scenes if kept and scene.colour != BLACK}
        sounds = {scene.sound for scene in scenes if kept}
        shape, sound = (words.pop() if len(words) == 1 else "" for words in (shapes, sounds))
        matching = bool(shape) and SOUNDS[shape] == sound
        clip = Clip(f"awkward/{name}.mp4", "awkward", text, shape, sound, matching, False, "camera_7", "")
        return Recording(clip, scenes, form, (seed, next(numbers)), steady, kept)

    return [
        case("no_sound", "A red circle moves; there is no sound track.", replace(circle, sound="")),
        case("no_picture", "Only plucked strings, nothing to see.", replace(star, shape="")),
        case("truncated", "A green star; the file breaks off before its end.", star, kept=0.6),
        case("empty", "", circle, kept=0),
        case("black", "Short beeps while the picture stays black.", replace(circle, colour=BLACK)),
        case("variable_rate", "A green star in uneven steps, with plucked strings.", star, steady=False),
        case("twelve_minutes", "Shapes and their sounds, a cut every minute.", *minutes, form=LONG),
    ]


def record(recording: Recording, path: Path) -> None:
    """Write one clip; the same recording gives the same bytes."""
    import av

    form, scenes = recording.form, recording.scenes
    options = {"fflags": "+bitexact"}
    if form.suffix == ".mp4":
        options["movflags"] = "+faststart"  # with the index in front, a truncated file still has a start to decode
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", options=options) as container:
        streams: list[tuple[Any, Iterator[Any]]] = []
        if any(scene.shape for scene in scenes):
            video = container.add_stream(form.video, form.fps, EXACT | SPEED.get(form.video, {}), **PICTURE)
            streams.append((video, _pictures(recording)))
        if any(scene.sound for scene in scenes):
            for track in range(1 + recording.clip.second_track):
                audio = container.add_stream(form.audio, form.rate_hz, EXACT, layout="mono")
                streams.append((audio, _sounds(recording, track)))
        container.start_encoding()
        packets = [_packets(stream, frames) for stream, frames in streams]
        for packet in heapq.merge(*packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)
    os.truncate(path, int(path.stat().st_size * recording.kept))


def _packets(stream: Any, frames: Iterator[Any]) -> "Iterator[Packet[Any]]":
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _pictures(recording: Recording) -> "Iterator[VideoFrame]":
    """Draw the scenes one after another; where the clip is not steady, most ticks of the clock have no frame."""
    from av import VideoFrame

    rng = np.random.default_rng((*recording.seed, 0))
    fps, first = recording.form.fps, 0
    for scene in recording.scenes:
        ticks = int(scene.duration_s * fps)
        steps = np.ones(ticks, int) if recording.steady else rng.choice([1, 2, 5, 9], ticks)
        shown = np.cumsum(steps) - steps[0]
        draw = _painter(scene, rng)
        for tick in shown[shown < ticks].tolist():
            frame = VideoFrame.from_ndarray(draw(tick / fps), format="rgb24")
            frame.pts, frame.time_base = first + tick, Fraction(1, fps)
            yield frame
        first += ticks


def _painter(scene: Scene, rng: np.random.Generator) -> Callable[[float], npt.NDArray[np.uint8]]:
    """Choose a path, a size and a spin; return what draws the picture at a time in seconds, (height, width, 3)."""
    edges, inset, needed = SHAPES[scene.shape]
    colour = np.array(PAINT[scene.colour])
    ground = np.roll(colour, 1) // 4
    radius_px = HEIGHT_PX * rng.uniform(0.2, 0.35)
    speed, phase = rng.uniform(0.6, 1.8, 2), rng.uniform(0, 2 * np.pi, 2)
    spin = rng.uniform(-1.5, 1.5)
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX].astype(np.float32)

    def draw(time_s: float) -> npt.NDArray[np.uint8]:
        x, y = (0.5 + 0.3 * np.sin(speed * time_s + phase)) * (WIDTH_PX, HEIGHT_PX)
        inside = np.zeros(rows.shape, int)
        for angle in spin * time_s + np.arange(edges) * (2 * np.pi / edges):
            inside += (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle) < inset * radius_px
        return np.where((inside >= needed)[..., None], colour, ground).astype(np.uint8)

    return draw


def _sounds(recording: Recording, track: int) -> "Iterator[AudioFrame]":
    """Play the scenes one after another; the second track has the sound that is next in the list."""
    from av import AudioFrame

    rng = np.random.default_rng((*recording.seed, 1 + track))
    kinds, rate_hz, first = list(SOUNDS.values()), recording.form.rate_hz, 0
    for scene in recording.scenes:
        kind = kinds[(kinds.index(scene.sound) + track) % len(kinds)]
        wave = _wave(kind, np.arange(int(scene.duration_s * rate_hz)) / rate_hz, rng)
        frame = AudioFrame.from_ndarray(wave[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, first, Fraction(1, rate_hz)
        yield frame
        first += wave.size


def _wave(kind: str, time_s: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    pitch_hz = rng.uniform(220, 440)
    turns = 2 * np.pi * pitch_hz
    half_s = time_s % 0.5
    match kind:
        case "beeps":
            wave = np.sin(4 * turns * time_s) * (half_s < 0.2)
        case "noise":
            wave = rng.standard_normal(time_s.size).clip(-3, 3) / 3 * np.exp(-8 * half_s)
        case "sweep":
            u = time_s % 2
            wave = np.sin(turns * (u + u**2))
        case "plucks":
            k = np.arange(1, 7)[:, None]
            wave = np.sum(np.sin(turns * k * half_s) * np.exp(-4 * k * half_s) / k, axis=0) / 2
        case _:
            raise ValueError(kind)
    return (0.5 * wave).astype(np.float32)
