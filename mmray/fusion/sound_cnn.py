"""Sound, encoded from its waveform: mel spectrogram in dB, SpecAugment, convolutions, attention over time.

The recordings of a batch stand one behind the other in a single spectrogram, with silence between them that is wider
than any convolution reaches: no time is spent on padding, and none sees its neighbour.

Source: Park et al. 2019, SpecAugment; Ko et al. 2015, Audio augmentation for speech recognition (speed). Weights:
trained here.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from mmray.errors import ConfigError
from mmray.fusion.config import Part, Width
from mmray.fusion.encoder import AttentionPool, Encoder
from mmray.fusion.standard import Standard
from mmray.models.torch_setup import ensure_torchaudio

FLOOR = 1e-10  # of a band's power, -100 dB
CHUNK = 256  # recordings at a time where means are taken
ROUND = 512  # spectrograms have a multiple of so many frames: a shape not seen before costs more than its numbers


class SoundCnn(Part):
    """Waveforms as the extractor ``waveform`` writes them; the windows of a sample follow each other in time.

    A spectrogram frame lasts ``frame_s``, the next begins ``step_s`` later; bands are in dB below the loudest of the
    recording, at most ``range_db``. ``filters``: of the convolutions; time and bands halve with each. In training each
    recording is played faster or slower by up to ``speed`` (a share; pitch and formants move with it), its bands are
    raised and lowered as by another voice and microphone: along a line and along a wave, each of a random height with
    the deviation ``tilt`` (in deviations of a band); and ``masks`` times a stretch of up to ``mask_time`` (a share) of
    its time and up to ``mask_mels`` bands are hidden.
    """

    name: Literal["sound_cnn"] = "sound_cnn"
    rate_hz: int = Field(8_000, ge=1_000, le=192_000)
    n_mels: int = Field(32, ge=1, le=512)
    frame_s: float = Field(0.032, gt=0, le=1)
    step_s: float = Field(0.0125, gt=0, le=1)
    range_db: float = Field(80, gt=0)
    filters: tuple[Width, ...] = Field((16, 32, 64), min_length=1)
    width: Width = 128
    dropout: float = Field(0.3, ge=0, lt=1)
    speed: float = Field(0.2, ge=0, lt=1)
    tilt: float = Field(0.3, ge=0, le=10)
    masks: int = Field(2, ge=0)
    mask_time: float = Field(0.15, ge=0, lt=1)
    mask_mels: int = Field(5, ge=0)

    @property
    def frame(self) -> int:
        """Return the samples of a spectrogram frame."""
        return round(self.frame_s * self.rate_hz)

    @property
    def step(self) -> int:
        """Return the samples from one frame to the next."""
        return round(self.step_s * self.rate_hz)

    @property
    def whole(self) -> int:
        """Return how many frames become one step of time in the last layer."""
        return 1 << len(self.filters)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n_mels >> len(self.filters):
            raise ValueError(f"filters: {self.n_mels} bands (n_mels) cannot halve {len(self.filters)} times")
        if self.frame < 2 or self.step < 1:
            raise ValueError("frame_s must hold two samples, step_s one")
        if self.frame > self.step * self.whole:
            raise ValueError("frame_s: a frame must not reach over step_s x 2 to the number of filters")
        return self


@dataclass(frozen=True)
class Rooms:
    """Where each recording stands in the spectrogram: ``room``, ``real`` (batch, frames): its frames, those of sound.

    Frames outside ``room`` are not in the spectrogram; ``counts`` (batch,): frames of sound.
    """

    room: Tensor
    real: Tensor
    counts: Tensor

    @classmethod
    def of(cls, lengths: Tensor, settings: SoundCnn) -> "Rooms":
        """Give each recording of ``lengths`` (batch,) samples its frames, and silence of one whole step or more."""
        counts = (lengths + settings.step - 1) // settings.step
        rooms = ((counts + settings.whole - 1) // settings.whole + 1) * settings.whole
        frames = torch.arange(int(rooms.max()), device=lengths.device)
        return cls(frames < rooms.unsqueeze(1), frames < counts.unsqueeze(1), counts)


class SoundEncoder(Encoder):
    """Convolutions over the spectrogram; what is no sound is zero in every layer."""

    def __init__(self, settings: SoundCnn) -> None:
        super().__init__()
        self.settings, self.width = settings, settings.width
        self.mel, self.standard = mel(settings), Standard(settings.n_mels)
        self.layers = nn.ModuleList()
        for place, (inputs, outputs) in enumerate(zip((1, *settings.filters), settings.filters, strict=False)):
            # The first layer, whose pictures are the largest, halves by its stride: a third less time.
            convolution = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
            if not place:
                convolution = nn.Conv2d(inputs, outputs, 5, 2, 2, bias=False)
            self.layers.append(nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU()))
        bands = (settings.n_mels >> len(settings.filters)) * settings.filters[-1]
        self.each = nn.Sequential(nn.Linear(bands, self.width), nn.ReLU())
        self.pool, self.dropout = AttentionPool(self.width), nn.Dropout(settings.dropout)

    def fit(self, windows: Tensor, there: Tensor) -> None:
        """Take mean and deviation of each band, in dB."""
        found = []
        for part, known in zip(torch.split(windows, CHUNK), torch.split(there, CHUNK), strict=True):
            waves, lengths = joined(part, known)
            rooms = Rooms.of(lengths, self.settings)
            found.append(self.decibels(waves, rooms)[flat(rooms.real, rooms)])
        self.standard.fit(torch.cat(found).cpu().numpy())

    def forward(self, windows: Tensor, there: Tensor) -> Tensor:
        """Encode waveforms (batch, windows, samples) into (batch, width)."""
        waves, lengths = joined(windows, there)
        if self.training:
            waves, lengths = played(waves, lengths, self.settings.speed)
        rooms = Rooms.of(lengths, self.settings)
        shown = self.standard(self.decibels(waves, rooms))
        if self.training:
            shown = masked(tilted(shown, rooms, self.settings.tilt), rooms, self.settings)
        real = flat(rooms.real, rooms)
        picture = (shown * real.unsqueeze(1))[None, None].contiguous(memory_format=torch.channels_last)
        for place, layer in enumerate(self.layers):
            picture = layer(picture)
            if place:
                picture = functional.max_pool2d(picture, 2)
            real = real[::2]
            picture = picture * real.unsqueeze(1)
        steps = self.each(picture[0].permute(1, 0, 2).flatten(1)[real])
        return torch.as_tensor(self.dropout(self.pool(steps, rooms.real[:, :: self.settings.whole])))

    def decibels(self, waves: Tensor, rooms: Rooms) -> Tensor:
        """Return the spectrogram of all recordings, in dB below each one's loudest band: (frames, n_mels)."""
        step, length = self.settings.step, rooms.room.shape[1] * self.settings.step
        waves = functional.pad(waves[:, :length], (0, max(0, length - waves.shape[1])))
        line = flat(waves.reshape(*rooms.room.shape, step), rooms).flatten()
        bands = 10 * self.mel(line)[:, :-1].T.clamp(min=FLOOR).log10()
        real = flat(rooms.real, rooms)
        table = bands.new_full(rooms.room.shape, -torch.inf)
        table[rooms.real] = bands[real].amax(1)
        below = bands[: int(rooms.room.sum())] - table.amax(1)[rooms.room.nonzero()[:, 0]].unsqueeze(1)
        below = below.clamp(min=-self.settings.range_db)
        return functional.pad(below, (0, 0, 0, len(bands) - len(below)))


def mel(settings: SoundCnn) -> nn.Module:
    """Return torchaudio's mel spectrogram of the power; ConfigError where bands are narrower than its frequencies."""
    ensure_torchaudio()
    from torchaudio.transforms import MelSpectrogram

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        made: nn.Module = MelSpectrogram(
            settings.rate_hz,
            n_fft=1 << (settings.frame - 1).bit_length(),
            win_length=settings.frame,
            hop_length=settings.step,
            n_mels=settings.n_mels,
            pad_mode="constant",
        )
    if not bool(made.mel_scale.fb.any(0).all()):  # type: ignore[union-attr, operator]
        raise ConfigError(f"sound_cnn: n_mels {settings.n_mels} are too many for a frame_s of {settings.frame_s:g}")
    return made


def flat(table: Tensor, rooms: Rooms) -> Tensor:
    """Lay a table (batch, frames, ...) out along the spectrogram: (frames, ...), zeros at its end."""
    line = table[rooms.room]
    return torch.cat([line, line.new_zeros(-len(line) % ROUND, *line.shape[1:])])


def owners(rooms: Rooms, frames: int) -> Tensor:
    """Return which recording each frame of the spectrogram belongs to: (frames,), 0 at its end."""
    return functional.pad(rooms.room.nonzero()[:, 0], (0, frames - int(rooms.room.sum())))


def joined(windows: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Join the windows that are there: waveforms (batch, samples), and lengths without the zeros at the end, >= 1."""
    waves = windows.masked_fill(~there.unsqueeze(2), 0).flatten(1)
    places = torch.arange(1, waves.shape[1] + 1, device=waves.device)
    lengths = torch.where(waves != 0, places, 1).amax(1)
    return waves[:, : int(lengths.max())], lengths


def played(waves: Tensor, lengths: Tensor, speed: float) -> tuple[Tensor, Tensor]:
    """Play each waveform (batch, samples) at a speed of its own, up to ``speed`` faster or slower."""
    rate = 1 + speed * (2 * torch.rand(len(waves), 1, device=waves.device) - 1)
    waves, lengths = functional.pad(waves, (0, 2)), (lengths / rate.squeeze(1)).ceil().long()
    at = torch.arange(int(lengths.max()), device=waves.device) * rate
    left = at.long().clamp(max=waves.shape[1] - 2)
    before = waves.gather(1, left)
    between = before + (at - left).clamp(max=1) * (waves.gather(1, left + 1) - before)
    return between, lengths


def tilted(shown: Tensor, rooms: Rooms, tilt: float) -> Tensor:
    """Raise and lower the bands of each recording: a line from below to above, and one swing of a cosine."""
    line = torch.linspace(-1, 1, shown.shape[1], device=shown.device)
    forms = torch.stack([line, -(math.pi * line).cos()])
    heights = tilt * torch.randn(len(rooms.counts), len(forms), device=shown.device)
    return shown + (heights @ forms)[owners(rooms, len(shown))]


def masked(shown: Tensor, rooms: Rooms, settings: SoundCnn) -> Tensor:
    """Hide stretches of time and bands of each recording in the standardised spectrogram: they become 0."""
    frames = torch.arange(rooms.room.shape[1], device=shown.device)
    bands = torch.arange(settings.n_mels, device=shown.device)
    owner = owners(rooms, len(shown))
    for _ in range(settings.masks):
        time = stretch(frames, settings.mask_time * rooms.counts, rooms.counts)
        mels = stretch(bands, torch.full_like(rooms.counts, settings.mask_mels), settings.n_mels)
        shown = shown.masked_fill(flat(time, rooms).unsqueeze(1) | mels[owner], 0)
    return shown


def stretch(places: Tensor, longest: Tensor, room: Tensor | int) -> Tensor:
    """Draw for each recording a stretch of up to ``longest`` (batch,) places within ``room``: bool (batch, places)."""
    size = torch.rand(len(longest), device=longest.device) * longest
    start = torch.rand(len(longest), device=longest.device) * (room - size)
    return (places >= start.unsqueeze(1)) & (places < (start + size).unsqueeze(1))
