"""Learning by trials: rewards and gradients by hand, noise by seed, a map that finds its peak."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.training.config import TrainingConfig
from ttame.training.module import ExplainerModule, part_of
from ttame.training.objective import ObjectiveConfig
from ttame.training.recipes import ours
from ttame.training.trials import draw_noise, reward, smooth_noise, trial_loss, trial_maps


def test_noise_depends_on_seed_step_and_photo_alone() -> None:
    drawn = draw_noise(0, 3, [5, 9])
    assert drawn.shape == (2, 1, 7, 7)
    assert torch.equal(drawn[1], draw_noise(0, 3, [9])[0])
    others = (draw_noise(1, 3, [9]), draw_noise(0, 4, [9]), draw_noise(0, 3, [8]))
    assert all(not torch.equal(drawn[1:], other) for other in others)


def test_noise_is_smooth_and_standardised() -> None:
    noise = smooth_noise(draw_noise(0, 0, range(4)), (28, 28))
    assert noise.shape == (4, 1, 28, 28)
    assert torch.allclose(noise.mean(dim=(2, 3)), torch.zeros(4, 1), atol=1e-5)
    assert torch.allclose(noise.std(dim=(2, 3), correction=0), torch.ones(4, 1), atol=1e-4)
    assert noise.diff(dim=-1).std() < 0.4  # of neighbours that are independent: √2


def test_rewards_by_hand() -> None:
    whole = torch.tensor([[0.5, 0.5]]).log()
    masked = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    found = reward(whole, masked, torch.tensor([0]), gain_limit=0.3)
    expected = [0.5 + 0.05 * math.log(0.5), 1.3 + 0.05 * math.log(1.8)]
    assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    unlimited = reward(whole, masked, torch.tensor([0]), gain_limit=None)
    assert float(unlimited[1, 0]) == pytest.approx(1.8 + 0.05 * math.log(1.8), rel=1e-5)


def test_maps_move_both_ways_and_the_loss_goes_to_the_better() -> None:
    odds = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]], requires_grad=True)
    noise = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    deviation = float(odds.detach().std())
    moved = trial_maps(odds, noise)
    assert torch.allclose(moved[0] - odds[0], 0.5 * deviation * noise[0])
    assert torch.allclose(moved[1] - odds[0], -0.5 * deviation * noise[0])
    trial_loss(odds, noise, torch.tensor([[0.9], [0.5]])).backward()  # type: ignore[no-untyped-call]
    assert odds.grad is not None
    # -(0.9 - 0.5) · noise / deviation, a mean of four places, over 2 · 0.5
    assert torch.allclose(odds.grad, -0.4 * noise / deviation / 4)


@pytest.mark.parametrize("count", [1, 4])
def test_one_photo_at_least_learns_by_gradients(
    explainer: Explainer, images: Tensor, count: int
) -> None:
    module = ExplainerModule(explainer, ours(tried=0.9, fusion="free"), 10)
    parts = module.step_parts(images[:count], torch.arange(count), 0)
    assert bool(parts.total.isfinite()) and (parts.trials is None) == (count == 1)  # type: ignore[attr-defined]


def test_ranks_are_found_without_gradients() -> None:
    """The reward is what a map puts on one quarter; no gradient of it is ever taken."""
    odds = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    optimizer = torch.optim.Adam([odds], lr=0.05)
    for step in range(300):
        noise = smooth_noise(draw_noise(0, step, [0]), (8, 8))
        moved = trial_maps(odds, noise)
        top = moved.flatten(1).topk(16, dim=1).indices
        kept = torch.zeros(2, 64).scatter(1, top, 1.0).reshape(2, 8, 8)
        rewards = kept[:, :4, :4].sum(dim=(1, 2))[:, None] / 16
        optimizer.zero_grad()
        trial_loss(odds, noise, rewards).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    best = odds.detach().flatten().topk(16).indices
    assert int(((best // 8 < 4) & (best % 8 < 4)).sum()) >= 14


def test_tried_photos_reach_the_loss_by_trials_alone(explainer: Explainer) -> None:
    images = torch.randn(4, 3, *explainer.spec.input_size)
    config = TrainingConfig.of(
        objective=ObjectiveConfig(
            cross_entropy=0, drop=5, trials=10, labels="own", reduction="mean"
        ),
        tried=0.5,
    )  # fmt: skip
    module = ExplainerModule(explainer, config, 10)
    module.explainer.mechanism.eval()  # batch norm would mix the photos
    noise = draw_noise(0, 0, [2, 3])
    whole = module.parts(images, noise=noise)
    plain = module.parts(images[:2])
    assert whole.trials is not None and plain.trials is None
    assert whole.drop.item() == pytest.approx(plain.drop.item(), abs=1e-6)
    assert whole.total.item() == pytest.approx(
        plain.total.item() + 10 * whole.trials.item(), abs=1e-5
    )


def test_parts_learn_at_rates_of_their_own(explainer: Explainer) -> None:
    rates = {"fusion": 0.1, "gains": 0.0}
    config = TrainingConfig.of(learning_rate=1e-2, part_rates=rates)
    module = ExplainerModule(explainer, config, 10)
    found = module.configure_optimizers()["optimizer"]
    expected = {"branches": 1e-2, "gains": 0.0, "fusion": 1e-3}
    names = {value: name for name, value in module.explainer.mechanism.named_parameters()}
    seen = set()
    for group in found.param_groups:
        for value in group["params"]:
            part = part_of(names[value])
            seen.add(part)
            assert group["max_lr"] == pytest.approx(expected[part])
    assert seen == set(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"part_rates": {"heads": 1.0}}, "unknown part of the mechanism 'heads'"),
        ({"part_rates": {"fusion": -1.0}}, "fusion must be at least 0, got -1.0"),
        ({"tried": 1.0}, "tried must be at least 0 and at most 0.9"),
        ({"tried": 0.5, "masked": "features"}, "tried=0.5 needs masked='image'"),
        ({"tried": 0.5, "objective": ObjectiveConfig()}, "labels='own'"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(TTameError, match=message):
        TrainingConfig.of(**fields)


def test_our_recipe_survives_its_record() -> None:
    assert TrainingConfig.of(**ours().flat()) == ours()
