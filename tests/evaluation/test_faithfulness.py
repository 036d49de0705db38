"""Single deletion score and faithfulness coefficient: by hand, and against plain loops."""

from __future__ import annotations

from dataclasses import replace
from math import exp
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from ttame.errors import TTameError
from ttame.evaluation.faithfulness import (
    cell_salience,
    check_grid,
    check_groups,
    delete_cells,
    faithfulness_coefficient,
    hide_groups,
    single_deletion_score,
)
from ttame.explainer import Explainer
from ttame.masking import rank_pixels
from ttame.methods.baselines import all_ones, fake_cam


class Weighing(nn.Module):
    """Class 1's logit is the weighed sum of all pixels and channels, class 0's is 0."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logit = (images * self.weights).sum(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def score(classifier: nn.Module, images: Tensor, maps: Tensor, grid: int) -> list[float]:
    targets = torch.ones(len(images), dtype=torch.int64)
    outputs = delete_cells(classifier, images, targets, grid)
    found: list[float] = single_deletion_score(
        outputs, cell_salience(maps, images.shape[-2:], grid)
    ).tolist()
    return found


def coefficient(
    explainer: Explainer, classifier: nn.Module, images: Tensor, maps: Tensor, **options: Any
) -> list[float]:
    targets = torch.ones(len(images), dtype=torch.int64)
    found = hide_groups(classifier, explainer.spec, images, maps, targets, **options)
    values: list[float] = faithfulness_coefficient(found.salience, found.probability).tolist()
    return values


# Single deletion score


def test_deleting_cells_by_hand() -> None:
    # Four pixels, weighed 1, 2, 3, 4: without one the sum of 10 lacks its weight.
    classifier = Weighing(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    images = torch.ones(1, 1, 2, 2)
    outputs = delete_cells(classifier, images, torch.tensor([1]), 2)
    assert outputs.tolist() == [[9.0, 8.0, 7.0, 6.0]] and classifier.calls == 4
    assert delete_cells(classifier, images, torch.tensor([0]), 2).tolist() == [[0.0] * 4]
    assert torch.equal(images, torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.1, 0.2], [0.3, 0.9]], 1.0),
        ([[9, 8], [7, 6]], -1.0),
        ([[1, 2], [4, 3]], 1 - 6 * 2 / (4 * 15)),  # Spearman: 1 - 6 Σ d² / (n (n² - 1))
        ([[-5, -4], [-3, 100]], 1.0),  # only the order counts, negative values too
        ([[0.3, 0.3], [0.3, 0.3]], 0.0),  # interpolation would round this value
    ],
)
def test_single_deletion_by_hand(values: list[list[float]], expected: float) -> None:
    weights = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    cells = weights.repeat_interleave(3, -1).repeat_interleave(3, -2)  # a photo of 6x6 pixels
    maps = torch.tensor([[values]], dtype=torch.float32)
    assert score(Weighing(cells), torch.ones(1, 1, 6, 6), maps, 2) == pytest.approx([expected])
    # Twice as sharp, the same order of the cells.
    assert score(Weighing(cells), torch.ones(1, 1, 6, 6), maps * 2 - 1, 2) == pytest.approx(
        [expected]
    )


def test_single_deletion_where_no_cell_matters_is_zero() -> None:
    maps = torch.rand(3, 1, 5, 5)
    assert score(Weighing(torch.zeros(1, 8, 8)), torch.rand(3, 1, 8, 8), maps, 4) == [0.0] * 3


def test_single_deletion_against_loops(explainer: Explainer, images: Tensor) -> None:
    maps = torch.randn(len(images), 1, 7, 5)
    with torch.no_grad():
        targets = explainer.classifier(images).argmax(dim=1)
    kept = images.clone(), maps.clone()
    outputs = delete_cells(explainer.classifier, images, targets)
    found = single_deletion_score(outputs, cell_salience(maps, (32, 32)))
    assert len(set(found.tolist())) == len(images)
    for index in range(len(images)):
        low, high = maps[index].min(), maps[index].max()
        large = torch.nn.functional.interpolate(
            (maps[index : index + 1] - low) / (high - low), size=(32, 32), mode="bilinear"
        )[0, 0]
        drops, sums = [], []
        with torch.no_grad():
            whole = explainer.classifier(images[index : index + 1])[0, targets[index]]
            for row in range(0, 32, 8):
                for column in range(0, 32, 8):
                    deleted = images[index : index + 1].clone()
                    deleted[:, :, row : row + 8, column : column + 8] = 0
                    answer = explainer.classifier(deleted)[0, targets[index]]
                    drops.append(float(whole - answer))
                    sums.append(float(large[row : row + 8, column : column + 8].sum()))
        assert float(found[index]) == pytest.approx(spearmanr(drops, sums).statistic, abs=1e-6)
    assert torch.equal(images, kept[0]) and torch.equal(maps, kept[1])


# Faithfulness coefficient


@pytest.mark.parametrize(
    ("salience", "probability", "expected"),
    [
        ([3.0, 2.0, 0.0], [0.1, 0.2, 0.3], 1.0),  # the more salient, the more it costs
        ([3.0, 2.0, 0.0], [0.3, 0.2, 0.1], -1.0),
        # Weights 1 (first, second), 3 (first, third), 2 (second, third); the first pair disagrees.
        ([3.0, 2.0, 0.0], [0.2, 0.1, 0.3], (-1 + 3 + 2) / 6),
        ([3.0, 2.0, 0.0], [0.1, 0.3, 0.2], (1 + 3 - 2) / 6),
        ([3.0, 2.0, 0.0], [0.1, 0.1, 0.3], (0 + 3 + 2) / 6),  # equal effects count for nothing
        ([3.0, 2.0, 0.0], [1.0, 1.0, 1.0], 0.0),
        ([1.0, 1.0, 1.0], [0.1, 0.2, 0.3], 0.0),  # a constant map
    ],
)
def test_coefficient_by_hand(
    salience: list[float], probability: list[float], expected: float
) -> None:
    found = faithfulness_coefficient(torch.tensor([salience]), torch.tensor([probability]))
    assert found.tolist() == pytest.approx([expected])


def test_groups_by_hand(explainer: Explainer) -> None:
    # Ten pixels in three groups of 3, 4 and 3; a hidden pixel takes the photo's mean, 4.5.
    images = torch.arange(10.0).view(1, 1, 2, 5)
    maps = images.flip(-1) / 9
    weights = torch.ones(1, 2, 5)
    weights[0, 1, 4] = -1  # 9, the brightest
    targets = torch.tensor([1])
    found = hide_groups(Weighing(weights), explainer.spec, images, maps, targets, groups=3)
    # The map holds 4, 3, 2, 1, 0 and 9, 8, 7, 6, 5: most salient are the pixels of 5, 6 and 7.
    assert found.salience.tolist() == [pytest.approx([8 / 9, 4.5 / 9, 1 / 9])]
    whole = 45 - 2 * 9
    changes = [13.5 - 18, 18 - (8 - 9 + 0 + 1) - 9, 13.5 - 9]  # 4.5 for 9 weighs -4.5, not -9
    logits = [whole + change for change in changes]
    expected = [1 / (1 + exp(-logit)) for logit in logits]
    assert found.probability.tolist() == [pytest.approx(expected)]


def test_groups_follow_the_activation(explainer: Explainer) -> None:
    classifier = Weighing(torch.linspace(0, 1, 16).view(1, 4, 4))
    images, maps = torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4)
    found = {}
    for activation in ("softmax", "sigmoid"):
        spec = replace(explainer.spec, activation=activation)
        groups = hide_groups(classifier, spec, images, maps, torch.tensor([0]), groups=4)
        found[activation] = groups.probability
    assert found["sigmoid"].tolist() == [[0.5] * 4]  # of a logit of 0, whatever the other one
    assert len(set(found["softmax"][0].tolist())) == 4


def test_coefficient_against_loops(explainer: Explainer, images: Tensor) -> None:
    maps = torch.randn(len(images), 1, 32, 32).relu()  # half of the pixels are tied
    with torch.no_grad():
        targets = explainer.classifier(images).argmax(dim=1)
    found = hide_groups(explainer.classifier, explainer.spec, images, maps, targets, seed=3)
    scores = faithfulness_coefficient(found.salience, found.probability)
    shuffled = rank_pixels(torch.zeros(1, 1, 32, 32), seed=3)[0, 0].tolist()
    for index in range(len(images)):
        values = (maps[index, 0] / maps[index].max()).flatten().tolist()
        order = sorted(shuffled, key=lambda pixel: -values[pixel])  # stable: ties by the shuffle
        salience, effects = [], []
        with torch.no_grad():
            for group in range(10):
                members = order[round(group * 102.4) : round((group + 1) * 102.4)]
                changed = images[index].clone().flatten(1)
                changed[:, members] = images[index].flatten(1).mean(dim=1, keepdim=True)
                answer = explainer.classifier(changed.view(1, 3, 32, 32)).softmax(dim=1)
                effects.append(-float(answer[0, targets[index]]))
                salience.append(sum(values[pixel] for pixel in members) / len(members))
        total = weights = 0.0
        for first in range(10):
            for second in range(first + 1, 10):
                weight = salience[first] - salience[second]
                total += weight if effects[first] >= effects[second] else -weight
                weights += abs(weight)
        assert float(scores[index]) == pytest.approx(total / weights, abs=1e-5)
    assert len(set(scores.tolist())) == len(images)


def test_a_true_map_scores_one_and_its_negative_minus_one(explainer: Explainer) -> None:
    weights = torch.linspace(0, 1, 64).view(1, 8, 8)
    images = torch.zeros(1, 1, 8, 8)
    images[0, 0] = torch.tensor([0.1, -0.1]).repeat(32).view(8, 8) + 0.2  # no effect is tied
    true = (weights * (images[0] - images.mean())).view(1, 1, 8, 8)
    assert coefficient(explainer, Weighing(weights), images, true) == pytest.approx([1.0])
    assert coefficient(explainer, Weighing(weights), images, -true) == pytest.approx([-1.0])


# Both


def test_blind_maps_do_not_win(explainer: Explainer, images: Tensor) -> None:
    with torch.no_grad():
        targets = explainer.classifier(images).argmax(dim=1)
    outputs = delete_cells(explainer.classifier, images, targets)
    for value in (1.0, 0.3):
        constant = all_ones(images, targets) * value
        assert single_deletion_score(outputs, cell_salience(constant, (32, 32))).tolist() == [0] * 6
        found = hide_groups(explainer.classifier, explainer.spec, images, constant, targets)
        assert faithfulness_coefficient(found.salience, found.probability).tolist() == [0] * 6
    # Ones but for one pixel: one cell of 16, and one group of 10, differs from the others.
    fake = fake_cam(images, targets)
    assert single_deletion_score(outputs, cell_salience(fake, (32, 32))).abs().max() < 0.5
    # The constant map's groups are those of the seed.
    one, two = (
        hide_groups(explainer.classifier, explainer.spec, images, constant, targets, seed=seed)
        for seed in (0, 1)
    )
    assert not torch.equal(one.probability, two.probability)


def test_results_do_not_depend_on_the_batch(explainer: Explainer, images: Tensor) -> None:
    maps, targets = torch.rand(len(images), 1, 6, 6), torch.zeros(len(images), dtype=torch.int64)
    together = hide_groups(explainer.classifier, explainer.spec, images, maps, targets)
    outputs = delete_cells(explainer.classifier, images, targets)
    for i in range(len(images)):
        some = slice(i, i + 1)
        alone = hide_groups(
            explainer.classifier, explainer.spec, images[some], maps[some], targets[some]
        )
        assert torch.allclose(alone.probability, together.probability[some], atol=1e-5)
        assert torch.allclose(alone.salience, together.salience[some], atol=1e-6)
        single = delete_cells(explainer.classifier, images[some], targets[some])
        assert torch.allclose(single, outputs[some], atol=1e-4)


@pytest.mark.parametrize(
    ("size", "grid", "message"),
    [
        ((224, 224), 5, "5x5.*224x224.*2, 4, 7, 8, 14, 16"),
        ((32, 48), 3, "3x3.*32x48.*2, 4, 8, 16"),
        ((7, 5), 2, "none: resize"),
        ((32, 32), 1, "1x1"),
        ((32, 32), 64, "64x64"),
    ],
)
def test_grids_of_unequal_cells_are_refused(size: tuple[int, int], grid: int, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        check_grid(size, grid)
    for call in (
        lambda: delete_cells(nn.Identity(), torch.rand(1, 3, *size), torch.tensor([0]), grid),
        lambda: cell_salience(torch.rand(1, 1, 4, 4), size, grid),
    ):
        with pytest.raises(TTameError, match=message):
            call()


@pytest.mark.parametrize("groups", [1, 0, 65])
def test_groups_that_cannot_be_are_refused(groups: int) -> None:
    with pytest.raises(TTameError, match=f"2 to 64 groups.*got {groups}"):
        check_groups((8, 8), groups)


def test_bad_input_is_refused(explainer: Explainer, images: Tensor) -> None:
    classifier, spec = explainer.classifier, explainer.spec
    targets, maps = torch.zeros(6, dtype=torch.int64), torch.rand(6, 1, 4, 4)
    broken = maps.clone()
    broken[2, 0, 1, 1] = float("nan")
    one_class = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))
    cases: list[tuple[Any, str]] = [
        (lambda: cell_salience(maps[..., :1, :1], (32, 32)), r"two cells.*\(6, 1, 1, 1\)"),
        (lambda: cell_salience(broken, (32, 32)), "NaN or infinite"),
        (lambda: hide_groups(classifier, spec, images, maps[..., :1, :1], targets), "two cells"),
        (lambda: hide_groups(classifier, spec, images, broken, targets), "NaN or infinite"),
        (lambda: hide_groups(classifier, spec, images, maps[:4], targets), "6 images.*got 4"),
        (lambda: hide_groups(classifier, spec, images, maps, targets[:4]), "agree in batch"),
        (lambda: hide_groups(one_class, spec, images, maps, targets), "single output"),
        (lambda: delete_cells(one_class, images, targets), "single output"),
        (lambda: delete_cells(classifier, images, targets[:4]), "agree in batch"),
        (lambda: faithfulness_coefficient(maps[:, 0, 0], maps[:, 0, 0, :2]), "one value per group"),
        (lambda: faithfulness_coefficient(broken[:, 0, 1], maps[:, 0, 1]), "NaN or infinite"),
        (lambda: single_deletion_score(broken[:, 0, 1], maps[:, 0, 1]), "NaN or infinite"),
    ]
    for call, message in cases:
        with pytest.raises(TTameError, match=message):
            call()
