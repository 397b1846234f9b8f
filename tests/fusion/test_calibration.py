"""After calibration confidence is the share of right answers, and the figures that say so are right themselves."""

import numpy as np
import pytest
import torch
from torch import nn

from mmray.fusion import calibration, networks
from mmray.fusion.examples import Batch
from mmray.fusion.mlp import Mlp
from mmray.fusion.networks import Fusion, Shape
from mmray.fusion.training import Network

CLASSES = 4
SHAPES = {name: Shape(CLASSES, Mlp(hidden=(8,))) for name in ("sound", "image")}


class Told(Fusion):
    """A network whose logits are its only input."""

    def branch(self, inputs: int) -> nn.Module:
        return nn.Identity()

    def encoded(self, batch: Batch, name: str, there: torch.Tensor) -> torch.Tensor:
        return batch.windows[name][:, 0]

    def join(self, branches: list[torch.Tensor], present: torch.Tensor) -> torch.Tensor:
        return branches[0]


def told(exaggeration: float, count: int = 4000, seed: int = 0) -> tuple[Fusion, Batch]:
    """Return a network that exaggerates by a known temperature, and examples on which it does."""
    torch.manual_seed(seed)
    honest = 2 * torch.randn(count, CLASSES)
    classes = torch.multinomial(honest.softmax(1), 1).squeeze(1)
    batch = Batch({"x": exaggeration * honest[:, None]}, {"x": torch.ones(count, 1, dtype=torch.bool)}, classes)
    return Told({"x": Shape(CLASSES, Mlp(hidden=(8,)))}, Network(inputs=("x",))), batch


@pytest.mark.parametrize("exaggeration", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_exaggeration_and_its_opposite(exaggeration: float) -> None:
    network, batch = told(exaggeration)
    before, after = calibration.fit_temperature(network, [batch])
    assert float(network.log_temperature.exp()) == pytest.approx(exaggeration, rel=0.08)
    assert after <= before
    _, unseen = told(exaggeration, seed=1)
    with torch.no_grad():
        raw, calibrated = (one.softmax(1).numpy() for one in (network.logits(unseen), network(unseen)))
    classes = unseen.classes.numpy()
    assert calibration.expected_calibration_error(calibrated, classes) < 0.025
    if exaggeration != 1:
        assert calibration.expected_calibration_error(raw, classes) > 0.1
        assert calibration.nll(calibrated, classes) < calibration.nll(raw, classes)
        assert calibration.brier(calibrated, classes) < calibration.brier(raw, classes)


def test_a_flawless_validation_part_does_not_ask_for_boundless_confidence() -> None:
    network, batch = told(20, 60)
    flawless = Batch(batch.windows, batch.there, batch.windows["x"][:, 0].argmax(1))
    before, after = calibration.fit_temperature(network, [flawless])
    assert after <= before
    assert 0.1 < float(network.log_temperature.exp()) <= 1
    assert calibration.fit_temperature(network, []) == (0, 0)
    assert float(network.log_temperature) == 0


def test_a_fit_that_goes_astray_leaves_temperature_1(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch = told(1, 200)
    monkeypatch.setattr(
        torch.optim.LBFGS, "step", lambda self, _: self.param_groups[0]["params"][0].data.fill_(float("nan"))
    )
    before, after = calibration.fit_temperature(network, [batch])
    assert before == pytest.approx(after, rel=1e-5)
    assert float(network.log_temperature) == 0


@pytest.mark.parametrize("fusion", ["early", "intermediate", "gated", "attention", "late"])
def test_every_join_is_calibrated_in_any_batches_and_nothing_else_changes(fusion: str) -> None:
    torch.manual_seed(0)
    network = networks.make(SHAPES, CLASSES, Network.model_validate({"inputs": ["sound", "image"], "fusion": fusion}))
    with torch.no_grad():
        for one in network.modules():
            if isinstance(one, nn.Linear):
                one.weight.mul_(3)  # exaggerates
    windows = {name: torch.randn(300, 2, CLASSES) for name in SHAPES}
    there = {name: torch.rand(300, 1).expand(-1, 2) < 0.8 for name in SHAPES}
    batch = Batch(windows, there, torch.randint(CLASSES, (300,)))
    weights = {name: one.clone() for name, one in network.state_dict().items()}
    network.train()
    before, after = calibration.fit_temperature(network, [batch])
    fitted = network.log_temperature.clone()
    assert network.training
    assert fitted.shape == ((2,) if fusion == "late" else (1,))
    assert after < before
    assert (fitted > 0.3).all()
    assert all(one.grad is None for one in network.parameters())
    assert not network.log_temperature.requires_grad
    changed = [name for name, one in network.state_dict().items() if not torch.equal(one, weights[name])]
    assert changed == ["log_temperature"]
    halves = [
        Batch({n: w[p] for n, w in windows.items()}, {n: t[p] for n, t in there.items()}, batch.classes[p])
        for p in (slice(0, 37), slice(37, 300))
    ]
    calibration.fit_temperature(network, halves)
    # The best temperature lies in a flat valley: 2e-7 more in each layer moved it by 2e-3 (measured).
    torch.testing.assert_close(network.log_temperature, fitted, atol=1e-2, rtol=0)


def test_the_figures_of_calibration_are_what_they_are_defined_to_be() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(3), 500)
    classes = random.integers(0, 3, 500)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == classes
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration.expected_calibration_error(probabilities, classes, 10) == pytest.approx(expected, abs=1e-9)
    log = -np.mean([np.log(row[one]) for row, one in zip(probabilities, classes, strict=True)])
    assert calibration.nll(probabilities, classes) == pytest.approx(log)
    truth = np.eye(3)[classes]
    assert calibration.brier(probabilities, classes) == pytest.approx(((probabilities - truth) ** 2).sum(1).mean())
    sure = np.eye(3)[[0, 1, 1]]
    found = calibration.reliability(sure, np.array([0, 1, 2]))
    assert found.rows() == [
        {"low": pytest.approx(14 / 15, abs=1e-6), "high": 1, "examples": 3, "accuracy": pytest.approx(2 / 3, abs=1e-6),
         "confidence": 1}
    ]  # fmt: skip
    assert found.error == pytest.approx(1 / 3)
    assert calibration.nll(sure, np.array([0, 1, 2])) < 10
    assert calibration.expected_calibration_error(np.zeros((0, 3)), np.zeros(0, np.int64)) == 0
