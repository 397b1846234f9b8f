"""What film_cnn sees: what moves, at any speed, in the order of time; what stands still says nothing."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mmray.errors import ConfigError
from mmray.fusion import encoders
from mmray.fusion.encoders import Encoder, FilmCnn
from mmray.fusion.film_cnn import movement

SIDE = 8
SMALL = FilmCnn(side_px=SIDE, frames=5, filters=(8, 16), width=16)


def films(places: Tensor) -> Tensor:
    """Return films of a bright spot in the middle row; ``places`` (n, frames): the column it is at."""
    columns = torch.arange(SIDE)
    spots = (1 - (columns - places.unsqueeze(2)).abs()).clamp(min=0)  # moves in a line between two columns
    pictures = torch.zeros(*places.shape, SIDE, SIDE)
    pictures[:, :, SIDE // 2] = spots
    return pictures.flatten(2)


def every(windows: Tensor) -> Tensor:
    return torch.ones(windows.shape[:2], dtype=torch.bool)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = encoders.make(SMALL, SIDE * SIDE)
    windows = torch.rand(8, 6, SIDE * SIDE)
    made.fit(windows, every(windows))
    for _ in range(3):  # statistics of the layers are no longer those of the beginning
        made(windows, every(windows))
    return made.eval()


def test_a_film_has_as_many_frames_as_asked_for_mixed_from_their_neighbours() -> None:
    windows = torch.tensor([[0.0, 2, 4, 9], [0, 9, 9, 4], [7, 9, 9, 9]]).unsqueeze(2)
    there = torch.tensor([[True, True, True, False], [True, False, False, True], [True, False, False, False]])
    found = movement(windows, there, 5).squeeze(2)
    torch.testing.assert_close(found, torch.tensor([[-2.0, -1, 0, 1, 2], [-2.0, -1, 0, 1, 2], [0, 0, 0, 0, 0]]))


def test_films_begin_and_end_elsewhere_and_stand_still_outside() -> None:
    torch.manual_seed(0)
    windows = torch.linspace(0, 1, 9).expand(400, 9).unsqueeze(2)
    found = movement(windows, every(windows), 9, 0.25).squeeze(2)
    spans = found[:, -1] - found[:, 0]
    assert 0.5 <= spans.min() < 0.6
    assert 0.99 < spans.max() <= 1.0001  # it never goes on behind its ends
    steps = found.diff()
    assert steps.min() >= -1e-6  # time never runs back
    still = [(steps[:, place] < 1e-6).float().mean() for place in (0, -1)]
    assert all(0.1 < share < 0.5 for share in still)


def test_what_stands_still_says_nothing(encoder: Encoder) -> None:
    windows = films(torch.tensor([[1.0, 3, 6, 2], [6, 5, 4, 1]]))
    scene = torch.rand(2, 1, SIDE * SIDE)
    torch.testing.assert_close(encoder(windows + scene, every(windows)), encoder(windows, every(windows)))


def test_a_word_said_slowly_is_the_same_and_said_backwards_another(encoder: Encoder) -> None:
    quick = films(torch.tensor([[1.0, 2, 3, 4, 5], [6, 5, 4, 3, 2]]))
    slow = films(torch.tensor([[1.0, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5], [6, 5.5, 5, 4.5, 4, 3.5, 3, 2.5, 2]]))
    torch.testing.assert_close(encoder(slow, every(slow)), encoder(quick, every(quick)))
    assert (encoder(quick.flip(1), every(quick)) - encoder(quick, every(quick))).abs().max() > 0.01


def test_darker_light_is_no_other_film_after_fit() -> None:
    windows = torch.rand(8, 6, SIDE * SIDE)
    found = []
    for light in (1.0, 0.1):
        torch.manual_seed(0)
        made = encoders.make(SMALL, SIDE * SIDE)
        made.fit(windows * light, every(windows))
        found.append(made.eval()(windows * light, every(windows)))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-3)


def test_pictures_that_never_move_are_no_error() -> None:
    windows = torch.rand(4, 1, SIDE * SIDE)
    made = encoders.make(SMALL, SIDE * SIDE)
    made.fit(windows, every(windows))
    assert made(windows, every(windows)).isfinite().all()


def test_hidden_frames_are_hidden_at_one_place(encoder: Encoder) -> None:
    windows = torch.rand(3, 5, SIDE * SIDE) + 1
    given = encoder.disturbed(windows, every(windows), "hidden", torch.full((3,), 0.25), torch.Generator())
    gone = (given == 0).reshape(3, 5, SIDE, SIDE)
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    assert 12 <= gone[0, 0].sum() <= 20
    assert not torch.equal(gone[0, 0], gone[1, 0])


def test_which_way_a_spot_moves_is_learnt_wherever_it_is() -> None:
    random = torch.Generator().manual_seed(1)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        ways = torch.randint(2, (count,), generator=random)
        starts = 2 + 3 * torch.rand(count, 1, generator=random)
        windows = films(starts + (2 * ways.unsqueeze(1) - 1) * torch.linspace(-1, 1, 6))
        return windows + torch.rand(count, 1, SIDE * SIDE, generator=random), ways

    torch.manual_seed(0)
    windows, ways = drawn(100)
    made = encoders.make(SMALL, SIDE * SIDE)
    made.fit(windows, every(windows))
    head = nn.Linear(made.width, 2)
    optimiser = torch.optim.AdamW([*made.parameters(), *head.parameters()], 1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(made(windows, every(windows))), ways).backward()
        optimiser.step()
    made.eval()
    windows, ways = drawn(200)
    assert (head(made(windows, every(windows))).argmax(1) == ways).float().mean() >= 0.95


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="side_px 16 is 256 numbers; the windows have 768"):
        encoders.make(FilmCnn(), 768)
    with pytest.raises(ValidationError, match="cannot halve 5 times"):
        FilmCnn(filters=(4,) * 5)
