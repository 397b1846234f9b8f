"""What noise means, in decibels and shares, and that a sample's noise is its own."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mmray.fusion import noise
from mmray.fusion.noise import Kind, Noise

PICTURE = (28, 28, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def there(windows: Tensor) -> Tensor:
    return torch.ones(windows.shape[:2], dtype=torch.bool)


def disturbed(windows: Tensor, kind: Kind, level: float, **how: Any) -> Tensor:
    return noise.disturb(windows, there(windows), kind, torch.full((len(windows),), level), generator(), **how)


def waves() -> Tensor:
    """Return 8 sounds of 1 s in windows of 0.5 s, with zeros behind the first 0.75 s."""
    made = torch.randn(8, 2, 4000, generator=generator(9)) * torch.logspace(-3, 0, 8)[:, None, None]
    made[:, 1, 2000:] = 0
    return made


@pytest.mark.parametrize("snr_db", [20.0, 0.0, -5.0])
def test_noise_of_a_waveform_is_measured_by_its_own_sound_without_the_padding(snr_db: float) -> None:
    given = waves()
    sound, added = given.flatten(1)[:, :6000], (disturbed(given, "snr_db", snr_db) - given).flatten(1)
    found = 10 * torch.log10(sound.square().mean(1) / added[:, :6000].square().mean(1))
    torch.testing.assert_close(found, torch.full((8,), snr_db), atol=0.3, rtol=0)
    assert not added[:, 6000:].any()


def test_noise_of_a_vector_is_measured_by_the_deviation_over_the_train_part() -> None:
    deviation = torch.tensor([0.0, 1.0, 100.0])
    added = disturbed(torch.zeros(4000, 1, 3), "snr_db", 6.0, deviation=deviation)
    torch.testing.assert_close(added.squeeze(1).std(0), deviation * 10 ** (-6 / 20), atol=0, rtol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_hidden_is_one_rectangle_of_that_share_of_a_picture(share: float) -> None:
    gone = (disturbed(torch.ones(500, 2, 784), "hidden", share, picture=PICTURE) == 0).reshape(500, 2, 28, 28)
    assert torch.equal(gone[:, 0], gone[:, 1])  # the same place in all pictures of a sample
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, gone[:, 0].sum((1, 2)))
    assert ((gone.float().mean((1, 2, 3)) - share).abs() <= 0.02).all()
    hit = gone[:, 0].float().mean(0)
    assert share in (0, 1) or 0 < hit.min() < 1  # any place may be hidden, and the corners never always


def test_hidden_is_a_stretch_of_a_waveform_and_numbers_of_any_other_vector() -> None:
    gone = (waves() != 0) & (disturbed(waves(), "hidden", 0.5) == 0)
    for one in gone.flatten(1):
        places = one.nonzero().squeeze(1)
        assert len(places) == 3000
        assert places[-1] - places[0] == 2999
        assert places[-1] < 6000
    vectors = disturbed(torch.ones(50, 3, 10), "hidden", 0.3, deviation=torch.ones(10))
    assert torch.equal((vectors == 0).sum(2), torch.full((50, 3), 3))
    assert torch.equal(vectors[:, 0], vectors[:, 2])


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("snr_db", {}), ("snr_db", {"picture": (50, 80, 1)}), ("snr_db", {"deviation": torch.ones(4000)}),
        ("hidden", {}), ("hidden", {"picture": (50, 80, 1)}), ("hidden", {"deviation": torch.ones(4000)}),
    ],
)  # fmt: skip
def test_neighbours_and_padding_change_nothing(kind: Kind, how: dict[str, Any]) -> None:
    given, level = waves(), torch.linspace(0.2, 0.8, 8)
    together = noise.disturb(given, there(given), kind, level, generator(), **how)
    own = generator()
    parts = [noise.disturb(given[s], there(given[s]), kind, level[s], own, **how) for s in (slice(3), slice(3, 8))]
    torch.testing.assert_close(torch.cat(parts), together)  # a level is a sum, which neighbours may be added up with
    padded = torch.cat([given, torch.full((8, 1, 4000), 7.0)], 1)
    known = torch.cat([there(given), torch.zeros(8, 1, dtype=torch.bool)], 1)
    padded = noise.disturb(padded, known, kind, level, generator(), **how)
    torch.testing.assert_close(padded[:, :2], together)
    assert (together - given).abs().max() > 0.01
    assert (padded[:, 2] == 7).all()


def test_what_stays_clean_stays_as_it_is_and_silence_stays_silent() -> None:
    given = waves()
    for kind, clean in noise.CLEAN.items():
        assert torch.equal(disturbed(given, kind, clean), given)
    assert not disturbed(torch.zeros(2, 1, 100), "snr_db", 0.0).any()


def test_training_disturbs_a_share_at_levels_within_the_range() -> None:
    levels = Noise(kind="snr_db", share=0.25, train=(-5, 20), sweep=(0,)).levels(4000, generator())
    noisy = levels[levels.isfinite()]
    assert abs(len(noisy) / 4000 - 0.25) < 0.03
    assert (noisy >= -5).all()
    assert (noisy <= 20).all()
    assert noisy.max() - noisy.min() > 24


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "hidden", "train": (0, 1.5), "sweep": (0.5,)},
        {"kind": "hidden", "train": (0, 1), "sweep": (-0.1,)},
        {"kind": "snr_db", "train": (20, -5), "sweep": (0,)},
        {"kind": "snr_db", "train": (0, 5), "sweep": (float("inf"),)},
        {"kind": "snr_db", "train": (0, 5), "sweep": ()},
        {"kind": "hiss", "train": (0, 5), "sweep": (0,)},
    ],
)
def test_levels_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Noise(**wrong)
