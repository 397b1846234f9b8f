"""What every encoder promises: one vector a sample, whatever stands beside it, and settings that fit their windows."""

import math
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from mmray.errors import ConfigError
from mmray.fusion import encoders
from mmray.fusion.encoders import Encoder, EncoderSettings, FilmCnn, ImageCnn, Mlp, SoundCnn
from mmray.fusion.sound_cnn import Rooms, joined, played, tilted

SIDE, SECOND = 12, 8000


def sounds(count: int = 6) -> Tensor:
    """Return tones of different lengths and loudness, zeros behind each, in windows of 0.25 s."""
    time = torch.arange(2 * SECOND) / SECOND
    made = torch.stack([torch.sin(2 * math.pi * (200 + 150 * k) * time) * 0.5**k for k in range(count)])
    for k in range(count):
        made[k, 1500 + 2300 * k :] = 0
    return made.reshape(count, 8, 2000)


def vectors(count: int, windows: int, dim: int) -> Tensor:
    return torch.rand(count, windows, dim, generator=torch.Generator().manual_seed(3))


def known(windows: Tensor) -> Tensor:
    """Return which windows are there: 1, 2, 3 ... of each sample; of sounds those that sound."""
    if windows.shape[2] == 2000:
        return windows.any(2)
    counts = torch.arange(len(windows)) % windows.shape[1] + 1
    return torch.arange(windows.shape[1]) < counts.unsqueeze(1)


CASES = [
    pytest.param(Mlp(hidden=(32, 16)), vectors(6, 4, 20), id="mlp"),
    pytest.param(ImageCnn(side_px=SIDE, filters=(4, 8), width=16), vectors(6, 4, SIDE * SIDE), id="grey"),
    pytest.param(ImageCnn(side_px=SIDE, channels=3, filters=(4,), width=16), vectors(6, 4, 3 * SIDE**2), id="colour"),
    pytest.param(FilmCnn(side_px=SIDE, filters=(4, 8), width=16), vectors(6, 4, SIDE * SIDE), id="film"),
    pytest.param(SoundCnn(filters=(4, 8), width=16), sounds(), id="sound"),
]
each = pytest.mark.parametrize(("settings", "windows"), CASES)


def made(settings: Any, windows: Tensor) -> Encoder:
    torch.manual_seed(0)
    encoder = encoders.make(settings, windows.shape[2])
    encoder.fit(windows, known(windows))
    encoder.train()
    for _ in range(3):  # statistics of the layers are no longer those of the beginning
        encoder(windows, known(windows))
    return encoder.eval()


@each
def test_each_sample_gives_one_vector_that_its_neighbours_do_not_change(settings: Any, windows: Tensor) -> None:
    encoder, there = made(settings, windows), known(windows)
    together = encoder(windows, there)
    assert together.shape == (len(windows), encoder.width)
    assert together.std(0).max() > 1e-3  # samples differ
    alone = torch.cat([encoder(windows[k : k + 1], there[k : k + 1]) for k in range(len(windows))])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


@each
def test_padded_windows_never_count(settings: Any, windows: Tensor) -> None:
    encoder, there = made(settings, windows), known(windows)
    rubbish = torch.where(there.unsqueeze(2), windows, torch.nan)
    rubbish = torch.cat([rubbish, torch.full_like(windows[:, :2], 9.0)], 1)
    more = torch.cat([there, torch.zeros_like(there[:, :2])], 1)
    torch.testing.assert_close(encoder(rubbish, more), encoder(windows, there), atol=1e-5, rtol=1e-4)
    again = encoders.make(settings, windows.shape[2])
    again.fit(rubbish, more)
    first = encoders.make(settings, windows.shape[2])
    first.fit(windows, there)
    for name, learnt in first.named_buffers():
        torch.testing.assert_close(dict(again.named_buffers())[name], learnt)


@each
def test_training_reaches_every_weight_and_stays_finite(settings: Any, windows: Tensor) -> None:
    encoder, there = made(settings, windows).train(), known(windows)
    encoder(windows, there).square().sum().backward()
    for name, weight in encoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@each
def test_settings_survive_a_configuration(settings: Any, windows: Tensor) -> None:
    class Config(BaseModel):
        encoder: EncoderSettings

    read = Config.model_validate_json(Config(encoder=settings).model_dump_json())
    assert read.encoder == settings


@each
def test_noise_is_that_of_the_modality(settings: Any, windows: Tensor) -> None:
    encoder, there = made(settings, windows), known(windows)
    for kind, level in (("hidden", 0.5), ("snr_db", 0.0)):
        given = encoder.disturbed(
            windows, there, kind, torch.full((len(windows),), level), torch.Generator().manual_seed(0)
        )
        assert not torch.equal(given, windows)
        assert torch.equal(given[~there], windows[~there])
    if isinstance(settings, ImageCnn):  # a rectangle: whole rows of the picture are gone at the same columns
        level = torch.full((len(windows),), 0.25)
        given = encoder.disturbed(windows, there, "hidden", level, torch.Generator().manual_seed(0))
        gone = (given[0, 0] == 0).reshape(SIDE, SIDE, -1).all(2)
        assert gone.any(0).sum() * gone.any(1).sum() == gone.sum()


def test_only_training_moves_masks_and_drops() -> None:
    for case in CASES:
        settings, windows = case.values
        encoder, there = made(settings, windows), known(windows)
        still = (encoder(windows, there) - encoder(windows, there)).abs().max()
        encoder.train()
        moved = (encoder(windows, there) - encoder(windows, there)).abs().max()
        assert still < 1e-5 < 1e-2 < moved


def test_a_louder_recording_says_the_same() -> None:
    encoder = made(SoundCnn(), sounds())
    there = known(sounds())
    torch.testing.assert_close(encoder(sounds() * 0.05, there), encoder(sounds(), there), atol=1e-3, rtol=1e-3)


def test_windows_of_a_sound_follow_each_other_in_time() -> None:
    encoder, windows = made(SoundCnn(), sounds()), sounds()
    whole = windows.reshape(len(windows), 1, -1)
    other = encoders.make(SoundCnn(), whole.shape[2]).eval()
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(
        other(whole, torch.ones(len(whole), 1, dtype=torch.bool)), encoder(windows, known(windows))
    )


def test_playing_faster_shortens_a_sound_and_raises_its_pitch() -> None:
    waves, lengths = joined(sounds(), known(sounds()))
    torch.manual_seed(0)
    moved, ends = played(waves, lengths, 0.3)
    for before, after, old, new in zip(waves, moved, lengths.tolist(), ends.tolist(), strict=True):
        crossings = [int((w[1:] * w[:-1] < 0).sum()) for w in (before[:old], after[:new])]
        assert abs(crossings[0] - crossings[1]) <= 2  # as many swings in another time
        assert 1 / 1.31 < new / old < 1 / 0.69
    assert len(set((ends / lengths).tolist())) == len(ends)


def test_each_recording_is_tilted_as_a_whole_and_by_itself() -> None:
    settings = SoundCnn()
    rooms = Rooms.of(joined(sounds(), known(sounds()))[1], settings)
    frames = int(rooms.room.sum())
    shown = torch.zeros(frames + 5, settings.n_mels)
    torch.manual_seed(0)
    moved = tilted(shown, rooms, 0.5)
    owner = rooms.room.nonzero()[:, 0]
    kinds = torch.stack([moved[:frames][owner == place][0] for place in range(len(rooms.counts))])
    torch.testing.assert_close(moved[:frames], kinds[owner])  # every frame of a recording alike
    assert (kinds[1:] - kinds[:-1]).abs().amax(1).min() > 0.05  # no two recordings
    # A line, odd around the middle band, and a cosine that is lowest at both ends.
    odd, even = (kinds - kinds.flip(1)) / 2, (kinds + kinds.flip(1)) / 2
    torch.testing.assert_close(odd, odd[:, -1:] * torch.linspace(-1, 1, settings.n_mels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(even[:, 0], -even.amax(1).maximum(-even.amin(1)) * even[:, 0].sign() * -1)
    torch.testing.assert_close(tilted(shown, rooms, 0.0), shown)


def test_silence_is_a_sound() -> None:
    encoder = made(SoundCnn(), sounds())
    assert encoder(torch.zeros(2, 1, 2000), torch.ones(2, 1, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "dim", "named"),
    [
        (ImageCnn(), 783, "side_px"),
        (ImageCnn(channels=3), 784, "side_px"),
        (SoundCnn(n_mels=200), 8000, "n_mels"),
    ],
)
def test_windows_that_do_not_fit_are_refused(settings: Any, dim: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        encoders.make(settings, dim)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ImageCnn(side_px=4, filters=(8, 8, 8)),
        lambda: SoundCnn(n_mels=4),
        lambda: SoundCnn(step_s=0.0001),
        lambda: SoundCnn(frame_s=0.5),
        lambda: Mlp(hidden=()),
        lambda: Mlp(layers=(3,)),  # type: ignore[call-arg]
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        wrong()


def recordings(folder: Path, digits: tuple[int, ...], takes: range) -> tuple[Tensor, Tensor]:
    """Read real recordings of one speaker: (count, 1, samples) with zeros behind each, and the digits."""
    read, classes = [], []
    for digit in digits:
        for take in takes:
            with wave.open(str(folder / f"{digit}_jackson_{take}.wav")) as file:
                read.append(np.frombuffer(file.readframes(file.getnframes()), "<i2") / np.float32(32768))
            classes.append(digits.index(digit))
    windows = torch.zeros(len(read), 1, max(map(len, read)))
    for row, samples in zip(windows, read, strict=True):
        row[0, : len(samples)] = torch.from_numpy(samples.copy())
    return windows, torch.tensor(classes)


def test_real_digits_are_learnt_from_their_waveform(test_data: Path) -> None:
    folder = test_data / "digits" / "fsdd"
    windows, classes = recordings(folder, (1, 6, 8), range(5, 20))
    torch.manual_seed(0)
    encoder = encoders.make(SoundCnn(), windows.shape[2])
    there = torch.ones(windows.shape[:2], dtype=torch.bool)
    encoder.fit(windows, there)
    network = torch.nn.Linear(encoder.width, 3)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *network.parameters()], 3e-3)
    for _ in range(25):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(network(encoder(windows, there)), classes).backward()
        optimiser.step()
    encoder.eval()
    windows, classes = recordings(folder, (1, 6, 8), range(5))
    found = network(encoder(windows, torch.ones(windows.shape[:2], dtype=torch.bool))).argmax(1)
    assert (found == classes).float().mean() >= 0.9


def test_a_vector_out_of_all_measure_is_answered_with_numbers() -> None:
    encoder = encoders.make(encoders.Mlp(hidden=(4,)), 3).eval()
    windows = torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(0))
    there = torch.ones(20, 1, dtype=torch.bool)
    encoder.fit(windows, there)
    assert torch.isfinite(encoder(torch.full((2, 1, 3), 3e38), there[:2])).all()
