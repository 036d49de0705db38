"""Many threads, explainers and evaluations on one classifier: the results of one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET
from tests.helpers.networks import count_hooks
from ttame.data import PhotoList
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.randomization import sanity_check
from ttame.explainer import Explainer
from ttame.methods import METHODS, build
from ttame.records import read_results

Job = Callable[[], Tensor]
# RISE takes too long; the trained ones need a shipped classifier, and others have attention.
NAMES = (
    "T-TAME", "T-TAME (refined)", "Grad-CAM", "Grad-CAM++", "XGrad-CAM", "Layer-CAM", "Eigen-CAM",
    "Score-CAM", "Ablation-CAM", "Finer-CAM", "IIA", "Opti-CAM", "Integrated Gradients",
    "SmoothGrad", "Occlusion", "random",
)  # fmt: skip
assert set(NAMES) <= set(METHODS)


@pytest.fixture(autouse=True)
def _busy_switches() -> Iterator[None]:
    """Let threads take turns often, so that they meet everywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-4)
    yield
    sys.setswitchinterval(before)


def run_at_once(jobs: list[Job], threads: int = 8) -> list[Tensor]:
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]


def assert_equal(jobs: list[Job], model: nn.Module) -> None:
    """Results at once equal those one by one, and no hook or mode is left behind."""
    before = count_hooks(model), [vars(module).keys() for module in model.modules()]
    expected = [job() for job in jobs]
    for index, (one, other) in enumerate(zip(expected, run_at_once(jobs), strict=True)):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6), index
    assert (count_hooks(model), [vars(module).keys() for module in model.modules()]) == before
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_two_explainers_of_one_classifier_in_eight_threads(
    explainer: Explainer, raw_images: Tensor, images: Tensor
) -> None:
    other = ttame.attach(explainer.classifier, ["stages.1"], input_size=(32, 32), **IMAGENET)
    other = other.replace(classifier=explainer.classifier).eval()
    assert other.classifier is explainer.classifier
    grad_cam = build("Grad-CAM", explainer)

    def job(number: int) -> Job:
        index = number % 6
        target = torch.tensor([number % 10])
        return (
            lambda: explainer.explain(raw_images[index], number % 10).maps,
            lambda: other.explain(raw_images[index], top_k=2).maps,
            lambda: explainer.explain(raw_images[index], refine=1).maps,
            lambda: grad_cam(images[index][None], target),
        )[number % 4]

    assert_equal([job(number) for number in range(200)], explainer.classifier)


def test_all_methods_beside_one_another(explainer: Explainer, images: Tensor) -> None:
    methods = [build(name, explainer) for name in NAMES]

    def job(number: int) -> Job:
        index, target = number % 3, torch.tensor([number % 7])
        return lambda: methods[number % len(methods)](images[index][None], target)

    assert_equal([job(number) for number in range(2 * len(NAMES))], explainer.classifier)


def test_attention_is_read_beside_other_passes(raw_images: Tensor) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, num_heads=2, depth=5,
        num_classes=4,
    )  # fmt: skip
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    explainer = ttame.attach(model, input_size=(32, 32), **IMAGENET)
    names = ("attention rollout", "Transformer attribution", "LeGrad", "LibraGrad")
    methods = [build(name, explainer) for name in names]

    def job(number: int) -> Job:
        image, target = raw_images[number % 6], torch.tensor([number % 4])
        if number % 5 == 4:
            return lambda: explainer.explain(image, top_k=4).maps
        return lambda: methods[number % 5](image[None], target)

    assert_equal([job(number) for number in range(40)], explainer.classifier)


def test_an_evaluation_with_a_method_of_ones_own_beside_others(
    explainer: Explainer, photos: PhotoList, images: Tensor, tmp_path: Path
) -> None:
    grad_cam = build("Grad-CAM", explainer)

    def own(images: Tensor, targets: Tensor) -> Tensor:
        maps: Tensor = explainer(images, targets[:, None])[2]
        return maps + grad_cam(images, targets).mean()

    def measure(name: str) -> Tensor:
        path = evaluate(
            explainer, photos, tmp_path / f"{name}.jsonl", batch_size=4,
            methods={"own": own, "Grad-CAM": grad_cam},
        )  # fmt: skip
        columns = ["target", "probability", "forward", "backward"]
        return torch.tensor(read_results(path)[1][columns].to_numpy(float))

    def checked() -> Tensor:
        table = sanity_check(
            explainer, METHODS["Grad-CAM"], images[:2], torch.tensor([1, 2]), stages=2
        )
        return torch.tensor(table["correlation"].to_numpy())

    jobs: list[Job] = []
    for number in range(12):
        if number % 3 == 0:
            jobs.append(lambda number=number: measure(str(number)))  # type: ignore[misc]
        elif number % 3 == 1:
            jobs.append(checked)
        else:
            jobs.append(lambda number=number: own(images[number % 6][None], torch.tensor([3])))  # type: ignore[misc]
    expected = [job() for job in jobs]
    for path in tmp_path.glob("*.jsonl"):
        path.unlink()
    for one, other in zip(expected, run_at_once(jobs), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)
    assert count_hooks(explainer.classifier) == 0
    assert expected[0][0, 2:].tolist() == [2.0, 1.0]  # ours and Grad-CAM's forward, its backward
