"""Training: only the mechanism learns, from a start that is known, into files that are whole."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

import ttame
from tests.conftest import IMAGENET
from ttame.attention import AttentionConfig
from ttame.classifiers.folding import fold_batch_norm
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.features import FeatureExtractor, masked_features
from ttame.masking import apply_mask, fill_blurred, keep_top, normalize_maps, upsample
from ttame.training.config import RunConfig, TrainingConfig
from ttame.training.fit import fit, loss_curves
from ttame.training.initialization import class_gradients, initialize
from ttame.training.module import ExplainerModule, autocast, channels_last
from ttame.training.objective import ObjectiveConfig
from ttame.training.recipes import lcam, published
from ttame.training.sampling import draw_ranks

LAYERS = ("stages.0", "stages.1", "stages.2")


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    after = model.state_dict()
    assert after.keys() == before.keys()
    return {name for name in before if not torch.equal(after[name], before[name])}


def quick(**changes: Any) -> TrainingConfig:
    return TrainingConfig.of(epochs=1, batch_size=4, workers=0).replace(**changes)


# Recipes


def test_published_holds_the_papers_values() -> None:
    config = published()
    assert (config.optimization.epochs, config.optimization.steps, config.photos.batch_size) == (
        8,
        None,
        32,
    )
    assert (
        config.optimization.optimizer,
        config.optimization.learning_rate,
        config.optimization.weight_decay,
    ) == ("sgd", 1e-3, 5e-4)
    assert (config.start.init, config.mask.activation, config.mask.retain) == (
        "free",
        "sigmoid",
        (1.0,),
    )
    assert asdict(config.objective) == {
        "cross_entropy": 1.5, "drop": 0.0, "trials": 0.0, "complement": 0.0, "gain_limit": None,
        "area": 2.0, "variation": 0.01, "area_exponent": 0.3,
        "labels": "batch", "reduction": "paper", "own_share": None,
    }  # fmt: skip
    assert published(epochs=4, learning_rate=1e-4) == config.replace(epochs=4, learning_rate=1e-4)


def test_the_default_trains_on_what_average_drop_measures() -> None:
    config = TrainingConfig()
    assert (config.optimization.epochs, config.optimization.learning_rate) == (1, 2e-4)
    assert (config.optimization.optimizer, config.start.init) == ("adamw", "classifier")
    assert (config.mask.activation, config.mask.masked) == ("minmax", "image")
    assert config.mask.retain == (1.0, 0.5, 0.15)
    assert asdict(config.objective) == {
        "cross_entropy": 0, "drop": 5, "trials": 0.0, "complement": 0.0, "gain_limit": None,
        "area": 2.0, "variation": 0.001, "area_exponent": 0.3,
        "labels": "own", "reduction": "mean", "own_share": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"optimizer": "adam"},
        {"activation": "softmax"},
        {"masked": "logits"},
        {"fusion": "bound"},
        {"ranks": 0},
        {"retain": ()},
        {"retain": (1.0, 0.0)},
        {"retain": (15,)},
        {"gradient_clip": 0.0},
        {"validate_every": 0},
        {"patience": -1},
        {"checkpoint_every": 0},
        {"devices": 0},
        {"nodes": 0},
        {"keep": "first"},
        {"precision": "64"},
        {"workers": -1},
        {"seed": -1},
        {"compile": True, "masked": "features"},
        {"fill": "noise"},
        {"fill": "blur", "masked": "features"},
    ],
    ids=str,
)
def test_recipes_without_meaning_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(TTameError, match=next(iter(fields))):
        TrainingConfig.of(**fields)


def test_settings_are_given_flat_or_in_groups() -> None:
    flat = TrainingConfig.of(learning_rate=1e-3, workers=0, area=1.5, retain=[1.0, 0.5])
    grouped = TrainingConfig.of(
        optimization={"learning_rate": 1e-3},
        run=RunConfig(workers=0),
        objective={"area": 1.5},
        mask={"retain": [1.0, 0.5]},
    )
    assert flat == grouped
    assert (flat.objective.area, flat.objective.drop) == (1.5, 5)  # what is left out stays
    assert TrainingConfig.of(**flat.flat()) == TrainingConfig.of(**asdict(flat)) == flat


@pytest.mark.parametrize("given", [{"learning_rat": 1.0}, {"run": {"learning_rat": 1.0}}], ids=str)
def test_an_unknown_setting_is_refused_with_a_suggestion(given: dict[str, Any]) -> None:
    with pytest.raises(TTameError, match=r"unknown training setting .* 'learning_rate'"):
        TrainingConfig.of(**given)


def test_the_settings_of_earlier_records_are_read() -> None:
    found = [json.loads(path.read_text()) for path in Path("data/explainers").glob("*.json")]
    configs = [record["config"] for record in found if "objective" in record.get("config", {})]
    assert configs
    for config in configs:
        read = TrainingConfig.of(**json.loads(json.dumps(config))).flat()
        written = json.loads(json.dumps(read))
        assert written["objective"].items() >= config["objective"].items()
        assert {key: written[key] for key in config if key != "objective"} == {
            key: value for key, value in config.items() if key != "objective"
        }


# One step


def test_target_classes_beyond_the_first(explainer: Explainer, images: Tensor) -> None:
    """Explained is the class at the drawn place; drawing depends on seed, step and photo only."""
    config = quick(ranks=3)
    module = ExplainerModule(explainer, config, 10).eval()
    ranks = torch.tensor([0, 1, 2, 0, 2, 1])
    labels = module.explainer.classifier(images).argsort(dim=1, descending=True)
    chosen = labels[torch.arange(6), ranks]
    _, _, raw = explainer(images, chosen[:, None])
    found = module.parts(images, ranks=ranks)
    low, high = raw.amin(dim=(2, 3), keepdim=True), raw.amax(dim=(2, 3), keepdim=True)
    expected = (((raw - low) / (high - low)) + 5e-4).pow(0.3).mean()
    assert float(found.area) == pytest.approx(float(expected), rel=1e-4)
    assert float(module.parts(images).area) != pytest.approx(float(expected), rel=1e-4)
    drawn = draw_ranks(0, 7, range(300), 3)
    assert set(drawn) == {0, 1, 2} and min(drawn.count(rank) for rank in range(3)) > 70
    assert draw_ranks(0, 7, [5, 4], 3) == [drawn[5], drawn[4]]
    assert draw_ranks(1, 7, range(300), 3) != drawn != draw_ranks(0, 8, range(300), 3)


def test_training_draws_target_classes(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    first = fit(explainer, photos, quick(), tmp_path / "first", progress=False)
    drawn = fit(explainer, photos, quick(ranks=3), tmp_path / "drawn", progress=False)
    again = fit(explainer, photos, quick(ranks=3), tmp_path / "again", progress=False)
    rows = [item.mechanism.fusion.weight for item in (first, drawn, again)]
    assert not torch.equal(rows[0], rows[1]) and torch.equal(rows[1], rows[2])


def test_ground_truth_is_the_target_where_it_is_asked_for(
    explainer: Explainer, images: Tensor, photos: PhotoList
) -> None:
    answer = explainer.extract(images)[0].argmax(dim=1)
    classes = explainer.mechanism.classes
    wrong = [(int(label) + 1) % classes for label in answer]
    config = TrainingConfig.of(truth="ground")
    chosen = photos.select(range(len(images)))

    def module(labels: list[int]) -> ExplainerModule:
        given = replace(chosen, labels=tuple(labels))
        return ExplainerModule(explainer, config, 10, given).eval()

    model = ExplainerModule(explainer, TrainingConfig(), 10).eval().parts(images)
    same, other = (
        item.parts(images, truth=item.truth) for item in (module(answer.tolist()), module(wrong))
    )
    assert torch.equal(same.total, model.total)
    assert not torch.equal(other.total, model.total)
    with pytest.raises(TTameError, match="needs photos with labels"):
        ExplainerModule(explainer, config, 10, chosen)
    with pytest.raises(TTameError, match=f"has label {classes}, the classifier has {classes}"):
        module([classes] * len(chosen))
    with pytest.raises(TTameError, match="'ground' needs ranks=1"):
        TrainingConfig.of(truth="ground", ranks=2)


@pytest.mark.parametrize(
    "config",
    [
        published(),
        TrainingConfig(),
        TrainingConfig.of(activation="sigmoid"),
        published(objective=ObjectiveConfig(own_share=0.5)),
    ],
    ids=["papers", "default", "sigmoid", "shared"],
)
def test_a_step_changes_the_mechanism_alone(
    explainer: Explainer, images: Tensor, config: TrainingConfig
) -> None:
    classifier = snapshot(explainer.classifier)
    mechanism = snapshot(explainer.mechanism)
    module = ExplainerModule(explainer, config, total_steps=10).train()
    assert explainer.mechanism.training and not explainer.classifier.training
    optimizer = module.configure_optimizers()["optimizer"]
    module.parts(images).total.backward()
    optimizer.step()
    assert changed(explainer.classifier, classifier) == set()
    touched = changed(explainer.mechanism, mechanism)
    # Everything learns; the statistics of the mechanism's own batch norm move along. The bias
    # before a batch norm has no effect, so no gradient beyond rounding.
    assert touched >= {name for name in mechanism if not name.endswith("convolution.bias")}
    assert all(value.grad is None for value in explainer.classifier.parameters())


def test_masked_pixels_filled_with_the_blurred_photo(explainer: Explainer, images: Tensor) -> None:
    loss = ObjectiveConfig(
        cross_entropy=0, drop=1, area=0, variation=0, complement=2, labels="own", reduction="mean"
    )
    config = TrainingConfig.of(fill="blur", objective=loss)
    module = ExplainerModule(explainer, config, total_steps=10).eval()
    with torch.no_grad():
        found = module.parts(images, retain=0.5)
        _, targets, raw = explainer(images)
        maps = normalize_maps(raw)

        def drop(masks: Tensor) -> Tensor:
            before, after = (
                explainer.classifier(shown).softmax(1).gather(1, targets)[:, 0]
                for shown in (images, fill_blurred(images, masks))
            )
            return 1 - after / before

        size = images.shape[-2:]
        expected = drop(keep_top(upsample(maps, size), 0.5, 0)).mean()
        left = (1 - drop(upsample(1 - maps, size))).clamp(max=1).mean()
    assert float(found.total) == pytest.approx(float(expected + 2 * left), abs=1e-5)
    plain = ExplainerModule(explainer, config.replace(fill="constant"), total_steps=10).eval()
    assert plain.parts(images, retain=0.5).total.item() != pytest.approx(float(found.total))


@pytest.mark.parametrize("activation", ["sigmoid", "minmax"])
def test_the_parts_of_the_objective_by_hand(
    explainer: Explainer, images: Tensor, activation: Any
) -> None:
    config = TrainingConfig.of(
        activation=activation, objective=ObjectiveConfig(labels="own", drop=5, variation=0)
    )
    module = ExplainerModule(explainer, config, total_steps=10).eval()
    with torch.no_grad():
        parts = module.parts(images, retain=0.5)
        logits, _, maps = explainer(images)
        if activation == "sigmoid":
            maps = torch.sigmoid(maps)
        else:
            low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
            maps = (maps - low) / (high - low)
        masks = F.interpolate(maps, size=(32, 32), mode="bilinear")
        level = masks.flatten(1).kthvalue(512, dim=1).values[:, None, None, None]
        masks = torch.where(masks > level, masks, 0.0)  # the upper 512 of 1,024 pixels
        assert (masks > 0).sum(dim=(1, 2, 3)).tolist() == [512] * 6
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (explainer.spec.mean, explainer.spec.std)
        )
        masked = ((images * std + mean) * masks - mean) / std
        answer = explainer.classifier(masked)
        entropy = F.cross_entropy(answer, logits.argmax(dim=1))
        p, labels = logits.softmax(dim=1).max(dim=1)
        q = answer.softmax(dim=1)[torch.arange(6), labels]
        drop = ((p - q) / p).mean()
        area = ((maps + 0.0005) ** 0.3).mean()
    assert float(parts.cross_entropy) == pytest.approx(float(entropy), abs=1e-4)
    assert float(parts.drop) == pytest.approx(float(drop), abs=1e-4)
    assert float(parts.area) == pytest.approx(float(area), rel=1e-5)
    total = 1.5 * entropy + 5 * drop + 2 * area
    assert float(parts.total) == pytest.approx(float(total), abs=1e-3)


def test_optimizer_of_the_papers(explainer: Explainer) -> None:
    module = ExplainerModule(explainer, published(), total_steps=100)
    found = module.configure_optimizers()
    optimizer = found["optimizer"]
    assert isinstance(optimizer, torch.optim.SGD)
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0.0)
    names = {id(value): name for name, value in explainer.mechanism.named_parameters()}
    assert all(names[id(value)].endswith("bias") for value in free["params"])
    assert all(names[id(value)].endswith("weight") for value in decayed["params"])
    assert len(free["params"]) + len(decayed["params"]) == len(names)
    assert any("norm.weight" in names[id(value)] for value in decayed["params"])
    assert all(group["nesterov"] for group in optimizer.param_groups)
    assert decayed["lr"] == pytest.approx(1e-3 / 25)
    schedule = found["lr_scheduler"]
    assert isinstance(schedule, dict) and schedule["interval"] == "step"
    rates = []
    for _ in range(99):
        optimizer.step()
        schedule["scheduler"].step()
        rates.append(decayed["lr"])
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (28, 29)  # three tenths of the way
    assert rates[-1] < 1e-7


def test_gradients_are_clipped_to_a_norm(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    norms: dict[str, list[float]] = {}

    class Watch(Callback):
        def __init__(self, name: str) -> None:
            self.found = norms.setdefault(name, [])

        def on_before_zero_grad(
            self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
        ) -> None:
            gradients = [v.grad.flatten() for v in pl_module.parameters() if v.grad is not None]
            self.found += [float(torch.cat(gradients).norm())] if gradients else []

    run(explainer, photos, tmp_path / "free", callbacks=[Watch("free")])
    bound = min(norms["free"]) / 2
    config = quick(gradient_clip=bound)
    run(explainer, photos, tmp_path / "clipped", config=config, callbacks=[Watch("clipped")])
    assert norms["clipped"] and max(norms["clipped"]) <= bound * (1 + 1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_pass_is_the_same_function(explainer: Explainer, images: Tensor) -> None:
    plain = ExplainerModule(explainer, TrainingConfig(), total_steps=10)
    compiled = ExplainerModule(explainer, TrainingConfig.of(compile=True), total_steps=10)
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    gradients = []
    for module in (plain, compiled):
        module.parts(images, 0.5).total.backward()
        gradient = explainer.mechanism.fusion.weight.grad
        assert gradient is not None
        gradients.append(gradient.clone())
        module.zero_grad()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_half_precision_still_ranks_pixels(explainer: Explainer, images: Tensor) -> None:
    module = ExplainerModule(explainer, TrainingConfig.of(precision="bf16-mixed"), total_steps=10)
    with autocast("bf16-mixed", torch.device("cpu")):
        half = module.parts(images, 0.5)
    assert half.total.dtype == torch.float32
    whole = module.parts(images, 0.5)
    assert float(half.area.detach()) == pytest.approx(float(whole.area.detach()), rel=0.05)


def test_a_loss_that_is_not_finite_stops_with_a_reason(
    explainer: Explainer, images: Tensor
) -> None:
    module = ExplainerModule(explainer, TrainingConfig.of(learning_rate=0.5), total_steps=10)
    assert explainer.mechanism.fusion.bias is not None
    explainer.mechanism.fusion.bias.data.fill_(float("nan"))
    with pytest.raises(TTameError, match=r"the loss became nan at step 0.*learning rate \(0\.5\)"):
        module.training_step([images, torch.arange(len(images))], 0)


# Folding


def randomized(name: str) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet10t", ("layer2", "layer3", "layer4")),
        ("tf_efficientnet_lite0", ("blocks.2", "blocks.4", "bn2")),
    ],
)
@torch.no_grad()
def test_folding_is_the_same_function(name: str, layers: tuple[str, ...]) -> None:
    model, images = randomized(name), torch.randn(2, 3, 64, 64)
    before = snapshot(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folded = fold_batch_norm(model, images[:1], layers)
    assert norms(model) > 0 and norms(folded) == 0
    assert changed(model, before) == set()
    for found, expected in zip(
        FeatureExtractor(folded, layers)(images)[1],
        FeatureExtractor(model, layers)(images)[1],
        strict=True,
    ):
        assert torch.allclose(found, expected, atol=1e-3 * float(expected.abs().max()))
    logits = model(images)
    assert torch.allclose(folded(images), logits, atol=1e-3 * float(logits.abs().max()))
    assert not any(value.requires_grad for value in folded.parameters())


class Twice(nn.Module):
    """One convolution that serves two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.first(self.convolution(images)).relu()
        logits: Tensor = self.second(self.convolution(hidden)).mean(dim=(2, 3))
        return logits


class Shared(nn.Module):
    """Two convolutions into one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.second(self.norm(self.first(images)))).mean(dim=(2, 3))
        return logits


class Branching(nn.Module):
    """The convolution's output goes past the batch norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.convolution(images)
        logits: Tensor = (self.norm(hidden) * hidden).mean(dim=(2, 3))
        return logits


class Between(nn.Module):
    """Something lies between convolution and batch norm."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, **options)
        self.between = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.norm(self.between(self.convolution(images))).mean(dim=(2, 3))
        return logits


class Untracked(nn.Module):
    """A batch norm that always takes the batch's own statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.norm(self.convolution(images)) ** 3).mean(dim=(2, 3))
        return logits


@pytest.mark.parametrize("kind", [Twice, Shared, Between, Untracked])
@torch.no_grad()
def test_what_cannot_be_folded_stays(kind: Callable[[], nn.Module]) -> None:
    model, images = kind().eval(), torch.randn(2, 3, 8, 8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folded = fold_batch_norm(model, images[:1])
    assert norms(folded) == norms(model)
    assert torch.equal(folded(images), model(images))


@torch.no_grad()
def test_a_fold_that_changes_the_logits_is_taken_back() -> None:
    model, images = Branching().eval(), torch.randn(2, 3, 8, 8)
    assert model.norm.running_mean is not None
    model.norm.running_mean.fill_(2.0)
    with pytest.warns(UserWarning, match="moves the logits of Branching"):
        folded = fold_batch_norm(model, images[:1])
    assert norms(folded) == 1
    assert torch.equal(folded(images), model(images))


@pytest.mark.parametrize("layer", ["stages.1.0", "stages.1.1", "stages.1.2", "stages.1"])
@torch.no_grad()
def test_tapped_layers_keep_their_maps(toy: nn.Module, images: Tensor, layer: str) -> None:
    folded = fold_batch_norm(toy, images[:1], (layer,))
    assert norms(folded) == (1 if layer == "stages.1.0" else 0)
    found = FeatureExtractor(folded, (layer,))(images)[1][0]
    assert torch.allclose(found, FeatureExtractor(toy, (layer,))(images)[1][0], atol=1e-5)


# Initialisation


@pytest.mark.parametrize(
    "config",
    [
        AttentionConfig(),
        AttentionConfig(batch_norm=False),
        AttentionConfig(skip=False),
        AttentionConfig(skip=False, batch_norm=False),
        AttentionConfig(branch=False),
        AttentionConfig(activation="identity"),
    ],
    ids=["default", "no norm", "no skip", "neither", "no branch", "identity"],
)
@torch.no_grad()
def test_the_classifier_start_is_class_activation_mapping(
    toy: nn.Module, images: Tensor, config: AttentionConfig
) -> None:
    explainer = ttame.attach(
        toy, LAYERS, config=config, input_size=(32, 32), head="head", **IMAGENET
    )
    initialize(explainer, images, "classifier")
    _, targets, own = explainer(images)
    assert float(own.mean()) == pytest.approx(0, abs=1e-4)
    assert float(own.std()) == pytest.approx(2, rel=1e-3)
    # CAM: the class's head weights over the last maps, here for classes that nobody predicts, too.
    head = explainer.classifier.get_submodule("head")
    last = explainer.classifier.get_submodule("stages")(images)
    cams = torch.einsum("kc,bchw->bkhw", head.weight, last)
    cams = F.interpolate(cams, size=(16, 16), mode="bilinear")
    chosen = cams[torch.arange(6), targets[:, 0]]
    gain, shift = 2 / chosen.std(), chosen.mean()
    every = explainer.mechanism.textbook(explainer.extract(images)[1])
    assert torch.allclose(every, (cams - shift) * gain, atol=1e-3)


def test_a_free_start_is_left_alone(explainer: Explainer, images: Tensor) -> None:
    before = snapshot(explainer.mechanism)
    initialize(explainer, images, "free")
    assert changed(explainer.mechanism, before) == set()


def test_initialising_keeps_mode_and_statistics(explainer: Explainer, images: Tensor) -> None:
    before = snapshot(explainer.mechanism)
    explainer.train()
    initialize(explainer, images, "classifier")
    assert explainer.mechanism.training
    touched = changed(explainer.mechanism, before)
    assert not any("running" in name for name in touched)
    assert not any(value.requires_grad for value in explainer.classifier.parameters())
    assert all(value.requires_grad for value in explainer.mechanism.parameters())


def test_the_start_is_the_mean_gradient_of_every_class(toy: nn.Module, images: Tensor) -> None:
    """At an inner layer, against gradients taken class by class through the layers behind it."""
    explainer = ttame.attach(toy, LAYERS[:2], input_size=(32, 32), **IMAGENET)
    found = class_gradients(explainer, images)
    stages = explainer.classifier.get_submodule("stages")
    assert isinstance(stages, nn.Sequential)
    head = explainer.classifier.get_submodule("head")
    inner = stages[1](stages[0](images)).detach().requires_grad_(True)
    logits = head(stages[2](inner.clone()).mean(dim=(2, 3)))
    assert found.shape == (10, 12)
    for index in range(10):
        (gradient,) = torch.autograd.grad(logits[:, index].sum(), inner, retain_graph=True)
        assert torch.allclose(found[index], gradient.mean(dim=(0, 2, 3)), atol=1e-6)
    assert not any(module._forward_hooks for module in explainer.classifier.modules())


def test_a_start_that_cannot_be_made_is_refused(toy: nn.Module, images: Tensor) -> None:
    config = AttentionConfig(skip=False, width=16)
    narrow = ttame.attach(toy, LAYERS, input_size=(32, 32), config=config, **IMAGENET)
    with pytest.raises(TTameError, match="leave width out"):
        initialize(narrow, images, "classifier")
    with pytest.raises(TTameError, match="init must be"):
        initialize(narrow, images, "head")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["img", "fm"])
def test_lcam_masks_the_image_or_the_feature_map(toy: nn.Module, images: Tensor, kind: Any) -> None:
    config = AttentionConfig(branch=False)
    explainer = ttame.attach(toy, LAYERS[2:], input_size=(32, 32), config=config, **IMAGENET)
    recipe = lcam(kind)
    parts = ExplainerModule(explainer, recipe, total_steps=1).parts(images)
    labels = explainer.classifier(images).argmax(dim=1)
    raw = explainer.mechanism([explainer.classifier.get_submodule("stages")(images)])
    mask = raw.sigmoid()[torch.arange(len(images)), labels][:, None]
    if kind == "fm":
        last = explainer.classifier.get_submodule("stages")(images) * mask
        answer = explainer.classifier.get_submodule("head")(last.mean(dim=(2, 3)))
    else:
        spec = explainer.spec
        large = F.interpolate(mask, size=(32, 32), mode="bilinear")
        answer = explainer.classifier(apply_mask(images, large, spec.space, spec.mean, spec.std))
    assert float(parts.cross_entropy.detach()) == pytest.approx(
        float(F.cross_entropy(answer, labels).detach()), rel=1e-4
    )
    assert recipe.mask.retain == (1.0,) and recipe.objective.drop == 0


def test_masked_features_need_a_map_of_the_masks_size(explainer: Explainer, images: Tensor) -> None:
    with (
        pytest.raises(TTameError, match=r"'head'.*cannot be multiplied"),
        masked_features(explainer.classifier, "head", torch.ones(6, 1, 4, 4)),
    ):
        explainer.classifier(images)
    assert not explainer.classifier.get_submodule("head")._forward_hooks
    with pytest.raises(TTameError, match="masked must be"):
        TrainingConfig.of(masked="logits")  # type: ignore[arg-type]


def test_an_unknown_start_is_refused(explainer: Explainer, images: Tensor) -> None:
    with pytest.raises(TTameError, match="'random'"):
        initialize(explainer, images, "random")  # type: ignore[arg-type]


# Whole runs


class Interrupt(Callback):
    """Kills the run at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


def run(explainer: Explainer, photos: PhotoList, out: Path, **options: Any) -> Explainer:
    config = options.pop("config", quick())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        return fit(explainer, photos, config, out, progress=False, name="toy", **options)


def test_a_run_writes_an_explainer_and_its_record(
    explainer: Explainer, make_toy: Callable[[int], nn.Module], photos: PhotoList, tmp_path: Path,
    images: Tensor,
) -> None:  # fmt: skip
    out = tmp_path / "run"
    classifier, untrained = snapshot(explainer.classifier), snapshot(explainer.mechanism)
    trained = run(explainer, photos, out, validation=photos.select(range(5)), command="ttame train")
    assert changed(explainer.classifier, classifier) == set()
    assert changed(explainer.mechanism, untrained) == set()
    assert changed(trained.classifier, classifier) == set()
    assert not trained.mechanism.training

    loaded = Explainer.load(out / "toy.safetensors", make_toy(0))
    with torch.no_grad():
        assert torch.equal(loaded(images)[2], trained(images)[2])
        assert bool(loaded(images)[2].isfinite().all())

    record = json.loads((out / "toy.json").read_text(encoding="utf-8"))
    assert (record["steps"], record["photos"], record["name"]) == (3, 12, "toy")
    assert record["command"] == "ttame train" and record["layers"] == list(LAYERS)
    assert record["config"]["batch_size"] == 4
    curves = record.pop("curves")
    assert loaded.record == record
    names = {f"train/{part}" for part in ("total", "cross_entropy", "drop", "area", "variation")}
    names |= {f"val/{metric} {p}%" for metric in ("AD", "IC") for p in (100, 50, 15)}
    assert names <= set(curves[0])
    for column in names:
        assert any(isinstance(row[column], float) for row in curves)
    assert list(loss_curves(out)["step"]) == [row["step"] for row in curves]
    assert not list(out.glob(".*"))


def test_the_same_seed_trains_the_same_explainer(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    runs = [
        run(explainer, photos, tmp_path / str(i), config=quick(steps=2, seed=seed))
        for i, seed in enumerate((3, 3, 4))
    ]
    ends = torch.load(tmp_path / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert ends["global_step"] == 2  # in the middle of an epoch
    first, second, third = (one.mechanism.state_dict() for one in runs)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert not torch.allclose(first["fusion.weight"], third["fusion.weight"], atol=1e-6)


def test_an_interrupted_run_goes_on_where_it_stopped(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", quick(epochs=2)
    with pytest.raises(RuntimeError, match="power cut"):
        run(explainer, photos, out, config=config, callbacks=[Interrupt(4)])
    last = out / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not (out / "toy.safetensors").exists()

    with pytest.raises(TTameError, match="holds an earlier run"):
        run(explainer, photos, out, config=config)
    steps: list[int] = []

    class Watch(Callback):
        def on_train_batch_start(
            self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            steps.append(trainer.global_step)

    run(explainer, photos, out, config=config, resume=True, callbacks=[Watch()])
    assert steps == [3, 4, 5]
    assert torch.load(last, weights_only=True)["global_step"] == 6
    assert (out / "toy.safetensors").is_file()


def test_checkpoints_leave_the_classifier_out(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    run(explainer, photos, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["state_dict"]
    assert all(name.startswith("explainer.mechanism.") for name in saved["state_dict"])


def test_resuming_with_another_architecture_is_refused(
    explainer: Explainer, toy: nn.Module, photos: PhotoList, tmp_path: Path
) -> None:
    run(explainer, photos, tmp_path / "run")
    other = ttame.attach(toy, LAYERS[1:], input_size=(32, 32), head="head", **IMAGENET)
    with pytest.raises(TTameError, match=r"layers was \['stages.0', .*, is \['stages.1', "):
        run(other, photos, tmp_path / "run", resume=True)


def test_resuming_nothing_is_refused(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    with pytest.raises(TTameError, match="nothing to resume"):
        run(explainer, photos, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_photo_is_named(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    (photos.root / photos.names[7]).write_bytes(b"")
    with pytest.raises(TTameError, match=rf"{photos.names[7]}.*--skip-bad, or skip_bad=True"):
        run(explainer, photos, tmp_path / "run")
    assert not (tmp_path / "run" / "toy.safetensors").exists()


def test_images_change_their_memory_format_and_their_gradient_changes_it_back() -> None:
    leaf = torch.randn(2, 3, 8, 8, requires_grad=True)
    images = leaf * 1
    images.retain_grad()
    laid = channels_last(images)
    assert torch.equal(laid, images) and laid.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    (laid * weights).sum().backward()
    assert images.grad is not None and images.grad.is_contiguous()
    assert torch.equal(images.grad, weights)
