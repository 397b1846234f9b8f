"""What networks promise: what is absent changes nothing but by its token, neighbours and order change nothing."""

import itertools
from typing import Any

import pytest
import torch

from mmray.fusion import networks
from mmray.fusion.encoders import ImageCnn, Mlp, SoundCnn
from mmray.fusion.examples import Batch
from mmray.fusion.networks import Fusion, Gated, Late, Shape
from mmray.fusion.training import Network

INPUTS = {"a": Shape(5, Mlp(hidden=(16,))), "b": Shape(3, Mlp(hidden=(12,))), "c": Shape(4, Mlp(hidden=(8,)))}
JOINS = ("early", "intermediate", "gated", "attention", "late")
CLASSES = 4


def network(fusion: str, inputs: dict[str, Shape] = INPUTS, **keys: Any) -> Fusion:
    torch.manual_seed(0)
    settings = Network.model_validate({"fusion": fusion, "width": 16, "inputs": list(inputs), **keys})
    made = networks.make(inputs, CLASSES, settings)
    for token in made.missing.values():
        torch.nn.init.normal_(token)
    return made.eval()


def batch(count: int = 6, windows: int = 3, inputs: dict[str, Shape] = INPUTS) -> Batch:
    random = torch.Generator().manual_seed(1)
    values = {name: torch.randn(count, windows, one.dim, generator=random) for name, one in inputs.items()}
    there = {name: torch.rand(count, windows, generator=random) < 0.7 for name in inputs}
    for place, name in enumerate(inputs):
        there[name][:, 0] = True
        there[name][place] = False  # one sample lacks this input
    return Batch(values, there, torch.randint(CLASSES, (count,), generator=random))


@pytest.mark.parametrize("fusion", JOINS)
def test_what_is_not_there_is_never_looked_at(fusion: str) -> None:
    made, one = network(fusion), batch()
    wild = {name: torch.where(one.there[name][..., None], own, torch.nan) for name, own in one.windows.items()}
    torch.testing.assert_close(made(Batch(wild, one.there, one.classes)), made(one))
    assert made(one).isfinite().all()


@pytest.mark.parametrize("fusion", JOINS)
def test_neighbours_in_a_batch_change_nothing(fusion: str) -> None:
    made, one = network(fusion), batch()
    alone = []
    for place in range(6):
        windows = {name: own[place : place + 1] for name, own in one.windows.items()}
        there = {name: own[place : place + 1] for name, own in one.there.items()}
        alone.append(made(Batch(windows, there, one.classes[place : place + 1])))
    torch.testing.assert_close(torch.cat(alone), made(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", JOINS)
def test_the_order_of_windows_and_their_padding_change_nothing(fusion: str) -> None:
    made, one = network(fusion), batch()
    order = [2, 0, 1]
    turned = Batch(
        {name: own[:, order] for name, own in one.windows.items()},
        {name: own[:, order] for name, own in one.there.items()}, one.classes,
    )  # fmt: skip
    torch.testing.assert_close(made(turned), made(one), rtol=1e-4, atol=1e-5)
    longer = Batch(
        {name: torch.cat([own, own], 1) for name, own in one.windows.items()},
        {name: torch.cat([own, torch.zeros_like(own)], 1) for name, own in one.there.items()}, one.classes,
    )  # fmt: skip
    torch.testing.assert_close(made(longer), made(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", JOINS)
def test_any_inputs_may_be_missing_and_all_of_them(fusion: str) -> None:
    made, one = network(fusion), batch()
    for count in range(1, 4):
        for gone in itertools.combinations(INPUTS, count):
            less = one
            for name in gone:
                less = less.without(name)
            answer = made(less)
            assert answer.isfinite().all()
            if count == 3:  # nothing is known of anybody: all are answered alike
                torch.testing.assert_close(answer, answer[:1].expand_as(answer))
    if fusion == "late":
        torch.testing.assert_close(answer.softmax(1), made.prior.expand(6, -1))  # type: ignore[union-attr]


@pytest.mark.parametrize("fusion", JOINS[:4])
def test_every_weight_is_learnt(fusion: str) -> None:
    """Also the tokens of what is missing, and the encoders, where some sample has and some lacks each input."""
    made, one = network(fusion, dropout=0, modality_dropout=0).train(), batch(64)
    torch.nn.functional.cross_entropy(made(one), one.classes).backward()
    without = [name for name, weight in made.named_parameters() if weight.requires_grad and weight.grad is None]
    # A gated sum gives what is absent no weight, attention does not look at it.
    assert [name for name in without if not name.startswith("missing.")] == []
    if fusion in ("early", "intermediate"):
        assert without == []


def test_modality_dropout_takes_one_input_of_a_share_of_samples() -> None:
    torch.manual_seed(0)
    present = torch.ones(10_000, 3, dtype=torch.bool)
    present[:2000, 1:] = False
    kept = networks.dropped(present, 0.3)
    assert (kept[:2000] == present[:2000]).all(), "the only input is never taken"
    lost = (~kept[2000:]).sum(1)
    assert set(lost.tolist()) == {0, 1}
    assert lost.float().mean() == pytest.approx(0.3, abs=0.02)
    assert (~kept[2000:]).float().mean(0).tolist() == pytest.approx([0.1] * 3, abs=0.02)
    made, one = network("early", modality_dropout=0.9), batch()
    torch.testing.assert_close(made(one), made(one))  # in evaluation nothing is dropped


def test_gates_add_up_to_one_over_what_is_there() -> None:
    made, one = network("gated"), batch()
    assert isinstance(made, Gated)
    branches, present = made.branched(one)
    weights = made.weights(branches, present)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights[~present] == 0).all()
    assert (weights[present] > 0).all()
    assert (made.weights(branches, torch.zeros_like(present)) == 0).all()


def test_late_fusion_multiplies_probabilities() -> None:
    """By hand: the product of calibrated probabilities, over the prior once for every input beyond the first."""
    made, one = network("late"), batch()
    assert isinstance(made, Late)
    made.prior.copy_(torch.tensor([0.4, 0.3, 0.2, 0.1]))
    made.log_temperature.data.copy_(torch.tensor([0.5, -0.2, 0.1]))
    branches, present = made.branched(one)
    expected = torch.ones(6, CLASSES)
    for place, name in enumerate(INPUTS):
        own = (made.heads[name](branches[place]) / made.log_temperature[place].exp()).softmax(1)
        expected = torch.where(present[:, place, None], expected * own, expected)
    expected = expected / made.prior ** (present.sum(1, keepdim=True) - 1)
    torch.testing.assert_close(made(one).softmax(1), expected / expected.sum(1, keepdim=True))


def test_one_input_left_is_answered_as_its_single_network_would() -> None:
    late = network("late")
    singles = []
    for name, shape in INPUTS.items():
        torch.manual_seed(len(singles) + 5)
        settings = Network.model_validate({"inputs": name, "width": 16})
        singles.append(networks.make({name: shape}, CLASSES, settings).eval())
    networks.begin(late, singles)
    one = batch().without("b").without("c")
    torch.testing.assert_close(late(one)[1:].softmax(1), singles[0](one)[1:].softmax(1))


@pytest.mark.parametrize("fusion", ["intermediate", "gated", "attention"])
def test_a_temperature_scales_what_is_said_and_no_answer(fusion: str) -> None:
    made, one = network(fusion), batch()
    before = made(one)
    made.log_temperature.data.fill_(0.7)
    torch.testing.assert_close(made(one), before / torch.tensor(0.7).exp())
    torch.testing.assert_close(made.logits(one), before)


def test_every_encoder_goes_into_every_join() -> None:
    inputs = {
        "image": Shape(64, ImageCnn(side_px=8, filters=(4, 4), width=8)),
        "sound": Shape(2000, SoundCnn(filters=(4, 4), width=8, n_mels=16)), "vector": Shape(5, Mlp(hidden=(8,))),
    }  # fmt: skip
    one = batch(5, 2, inputs)
    for fusion in JOINS:
        assert network(fusion, inputs)(one).shape == (5, CLASSES)
        assert network(fusion, inputs).train()(one).isfinite().all()
