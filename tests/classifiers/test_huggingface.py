"""Image classifiers of `transformers`: facts, logits, layers, methods, files; also under PEFT."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ttame
from benchmarks.families import build_hub_member
from tests.helpers.networks import count_hooks
from ttame.classifiers.huggingface import hub_model, processor_facts
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.evaluate import METRICS, evaluate
from ttame.evaluation.tables import summary
from ttame.explainer import Explainer
from ttame.features import prefix_tokens
from ttame.images import normalize, to_batch
from ttame.methods import build
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit

transformers = pytest.importorskip("transformers", reason="needs transformers")

SQUARE, CROP = {"height": 64, "width": 64}, {"height": 72, "width": 72}
HALF, IMAGENET = (0.5, 0.5, 0.5), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Each family with a processor such as its checkpoints have, and what is read from that:
# resize, mean, interpolation.
PROCESSORS: Mapping[str, tuple[str, dict[str, Any], tuple[Any, Any, str]]] = {
    "vit": ("ViTImageProcessor", {"size": SQUARE}, ((64, 64), HALF, "bilinear")),
    "deit": (
        "DeiTImageProcessor",
        {"size": CROP, "crop_size": SQUARE, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]},
        ((72, 72), IMAGENET[0], "bicubic"),
    ),
    "beit": (
        "BeitImageProcessor",
        {"size": SQUARE, "do_center_crop": False, "resample": 2},
        ((64, 64), HALF, "bilinear"),
    ),
    "dinov2": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 72}, "crop_size": SQUARE, "image_mean": IMAGENET[0]},
        (72, IMAGENET[0], "bicubic"),
    ),
    "dinov2_with_registers": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 72}, "crop_size": SQUARE, "image_mean": IMAGENET[0]},
        (72, IMAGENET[0], "bicubic"),
    ),
    "swin": ("ViTImageProcessor", {"size": SQUARE, "resample": 3}, ((64, 64), HALF, "bicubic")),
    "convnext": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.8},
        (80, HALF, "bicubic"),
    ),
    "resnet": (
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.8},
        (80, HALF, "bicubic"),
    ),
    "mobilevit": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 72}, "crop_size": SQUARE},
        (72, (0.0, 0.0, 0.0), "bicubic"),
    ),
}
PREFIX = {"vit": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2_with_registers": 4}
TRANSFORMERS = tuple(PREFIX)
FACTS: dict[str, Any] = {"mean": HALF, "std": HALF}
NAMES = tuple("abcdefghij")

every_family = pytest.mark.parametrize("family", PROCESSORS)


def processor_of(family: str, **changed: Any) -> Any:
    name, settings, _ = PROCESSORS[family]
    return getattr(transformers, name)(**{**settings, **changed})


def attached(family: str, **settings: Any) -> Explainer:
    model = build_hub_member(family, **settings)
    torch.manual_seed(1)
    return ttame.attach(model, processor=processor_of(family))


@pytest.fixture
def photo() -> Image.Image:
    """A smooth photo, wider than high."""
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@every_family
def test_photos_are_prepared_as_the_processor_prepares_them(
    family: str, photo: Image.Image
) -> None:
    model, processor = build_hub_member(family), processor_of(family)
    explainer = ttame.attach(model, processor=processor)
    resize, mean, interpolation = PROCESSORS[family][2]
    spec = explainer.spec
    assert (spec.input_size, spec.resize) == ((64, 64), resize)
    assert spec.mean == mean and spec.interpolation == interpolation
    wanted = processor(images=photo, return_tensors="pt")["pixel_values"]
    images = normalize(to_batch(photo, spec), spec)
    blue_first = family == "mobilevit"
    assert spec.channel_order == ("bgr" if blue_first else "rgb")
    found = images.flip(1) if blue_first else images
    step = 1 / 255 / min(spec.std)  # Pillow and torch round resized pixels differently
    assert float((found - wanted).abs().max()) <= 1.01 * step
    with torch.inference_mode():
        logits = model(found).logits
        assert torch.allclose(explainer.classifier(images), logits, atol=1e-6)
        # Were the order of the channels lost, the logits would differ by more.
        assert not torch.allclose(explainer.classifier(images.flip(1)), logits, atol=1e-6)


@every_family
def test_maps_come_from_layers_that_are_chosen_and_come_back(
    family: str, photo: Image.Image, tmp_path: Path
) -> None:
    explainer = attached(family)
    assert len(explainer.layers) == 3
    images = normalize(to_batch(photo, explainer.spec), explainer.spec)
    with torch.inference_mode():
        maps = explainer.extract(images)[1]
    if family in TRANSFORMERS:
        patch = explainer.classifier.config.patch_size  # type: ignore[union-attr]
        assert {found.shape[-2:] for found in maps} == {(64 // patch, 64 // patch)}
        assert prefix_tokens(explainer.classifier) == PREFIX[family]
    else:
        assert [found.shape[-1] for found in maps] == [8, 4, 2]
    path = explainer.save(tmp_path / "explainer.safetensors")
    model = build_hub_member(family)
    again = ttame.load(path, model=model)
    assert again.spec.channel_order == explainer.spec.channel_order
    assert (again.spec.mean, again.spec.resize) == (explainer.spec.mean, explainer.spec.resize)
    assert torch.equal(again.explain(photo).maps, explainer.explain(photo).maps)
    assert count_hooks(model) == 0  # those that return the logits are the copy's


@pytest.mark.slow
@every_family
def test_every_family_is_trained_and_evaluated(
    family: str, photos: PhotoList, tmp_path: Path
) -> None:
    explainer = attached(family)
    config = TrainingConfig.of(steps=2, batch_size=4, workers=0)
    trained = fit(explainer, photos, config, tmp_path / "run", progress=False)
    assert trained.record["steps"] == 2
    moved = zip(trained.mechanism.parameters(), explainer.mechanism.parameters(), strict=True)
    assert any(not torch.equal(after, before) for after, before in moved)
    found = evaluate(
        trained, photos.select(range(2)), tmp_path / "results.jsonl",
        methods=("T-TAME", "Grad-CAM"), metrics=METRICS, steps=2,
    )  # fmt: skip
    assert summary(found).notna().to_numpy().any()
    assert set(summary(found).index) == {"T-TAME", "Grad-CAM"}


GRADIENTS = ("Grad-CAM", "Grad-CAM++", "Layer-CAM", "Integrated Gradients", "SmoothGrad", "IIA")


@every_family
def test_gradient_and_ablation_methods_apply(family: str, photo: Image.Image) -> None:
    explainer = attached(family)
    images = normalize(to_batch(photo, explainer.spec), explainer.spec)
    for name in (*GRADIENTS, "Ablation-CAM"):
        maps = build(name, explainer)(images, torch.tensor([3]))
        assert maps.shape[:2] == (1, 1) and bool(maps.isfinite().all()), name


def test_trying_a_smaller_input_does_not_change_the_classifier() -> None:
    """Swin of `transformers` keeps the smallest window that it ever used."""
    explainer = attached("swin")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = explainer.classifier(images)
        build("Ablation-CAM", explainer)(images, torch.tensor([0]))
        assert torch.equal(explainer.classifier(images), before)


def test_the_caller_keeps_the_output_object() -> None:
    model = build_hub_member("vit")
    ttame.attach(model, **FACTS)
    assert hasattr(model(torch.zeros(1, 3, 64, 64)), "logits")


def test_tuples_are_no_obstacle() -> None:
    model = build_hub_member("vit", return_dict=False)
    explainer = ttame.attach(model, **FACTS)
    assert explainer.mechanism.classes == 10
    assert model.config.return_dict is False  # type: ignore[union-attr]


def test_an_adopted_classifier_is_adopted_again() -> None:
    first = attached("mobilevit")
    second = ttame.attach(first.classifier, **FACTS)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(second.classifier(images), first.classifier(images))


def test_wrappers_are_taken_off() -> None:
    explainer = ttame.attach(nn.DataParallel(build_hub_member("vit")), **FACTS)
    assert explainer.spec.name == "ViTForImageClassification"
    assert explainer.spec.input_size == (64, 64)


@pytest.mark.parametrize("keys", [int, str])
def test_class_names_come_from_the_config(keys: Callable[[int], Any]) -> None:
    model = build_hub_member("convnext")
    names = {keys(index): name for index, name in reversed(list(enumerate(NAMES)))}
    model.config.id2label = names  # type: ignore[union-attr]
    assert ttame.attach(model, **FACTS).classes == NAMES
    given = ttame.attach(model, classes=NAMES[::-1], **FACTS)
    assert given.classes == NAMES[::-1]


def test_placeholders_are_no_names_and_a_thousand_labels_not_imagenet(tmp_path: Path) -> None:
    explainer = ttame.attach(build_hub_member("convnext"), **FACTS)
    assert explainer.classes[:2] == ("class 0", "class 1") and len(explainer.classes) == 10
    model = build_hub_member("convnext", num_labels=1000)
    many = ttame.attach(model, **FACTS)
    assert many.classes[285] == "class 285"  # not the Egyptian cat
    path = many.save(tmp_path / "explainer.safetensors")
    assert ttame.load(path, model=model).classes[285] == "class 285"


def test_labels_with_a_gap_are_refused() -> None:
    model = build_hub_member("convnext")
    model.config.id2label = {0: "a", 2: "b"}  # type: ignore[union-attr]
    with pytest.raises(TTameError, match="2 names but none for index 1"):
        ttame.attach(model, **FACTS)


def test_what_the_config_does_not_state_is_asked_for() -> None:
    asked = r"the normalisation of ViTFor.* is not known; pass processor=.*, or"
    with pytest.raises(TTameError, match=rf"{asked} mean and std per channel"):
        ttame.attach(build_hub_member("vit"))
    with pytest.raises(TTameError, match=rf"{asked} std per channel"):
        ttame.attach(build_hub_member("vit"), mean=HALF)
    with pytest.raises(TTameError, match=r"the input size of ResNetFor.*, or input_size=\(H, W\)"):
        ttame.attach(build_hub_member("resnet"), **FACTS)


@pytest.mark.parametrize("size", [48, (32, 64)])
def test_a_size_in_the_config_is_taken(size: Any) -> None:
    explainer = ttame.attach(build_hub_member("vit", image_size=size), **FACTS)
    assert explainer.spec.input_size == ((48, 48) if size == 48 else (32, 64))


def test_another_input_size_scales_the_processors_resize() -> None:
    model, processor = build_hub_member("convnext"), processor_of("convnext")
    spec = ttame.attach(model, processor=processor, input_size=(96, 128)).spec
    assert (spec.input_size, spec.resize) == ((96, 128), 120)  # 80 / 64 of the shorter side
    stretched = ttame.attach(model, processor=processor_of("vit"), input_size=(96, 128)).spec
    assert stretched.resize == (96, 128)


@pytest.mark.parametrize(
    ("changed", "mean", "std"),
    [
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1 / 255),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [51.0] * 3}, 0.5, 0.2),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 0.5, 0.5),
    ],
)
def test_rescaling_is_part_of_the_normalisation(
    changed: dict[str, Any], mean: float, std: float
) -> None:
    """What reaches the model is (factor · 255 · value - mean) / std, value in [0, 1]."""
    facts = processor_facts(processor_of("vit", **changed))
    assert facts["mean"] == pytest.approx([mean] * 3, abs=1e-6)
    assert facts["std"] == pytest.approx([std] * 3, abs=1e-6)


def test_an_offset_is_part_of_the_normalisation() -> None:
    processor = transformers.EfficientNetImageProcessor(
        size=SQUARE, rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False,
        include_top=False,
    )  # fmt: skip
    facts = processor_facts(processor)
    assert facts["mean"] == pytest.approx(HALF) and facts["std"] == pytest.approx(HALF)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"do_resize": False}, "do_resize=False"),
        ({"size": {"shortest_edge": 64, "longest_edge": 80}}, "longest_edge"),
        ({"size": {"shortest_edge": 64}}, "without a crop"),
        (
            {
                "size": {"shortest_edge": 64},
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 48},
            },
            "64x48 out of photos",
        ),
    ],
)
def test_other_preparations_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TTameError, match=f"ViTImageProcessor.*{message}"):
        processor_facts(processor_of("vit", **changed))


def test_other_changes_of_colour_are_refused() -> None:
    class Inverted(transformers.ViTImageProcessor):  # type: ignore[misc]
        def rescale_and_normalize(self, images: Tensor, *args: Any) -> Tensor:
            return 1 - images.float() / 255

    with pytest.raises(TTameError, match="Inverted does more to colours"):
        processor_facts(Inverted(size=SQUARE))


@pytest.mark.parametrize("thing", ["vit", object()])
def test_something_else_than_a_processor_is_refused(thing: object) -> None:
    with pytest.raises(TTameError, match="must be an image processor of transformers, got a"):
        ttame.attach(build_hub_member("vit"), processor=thing)


def test_a_processor_goes_with_a_module() -> None:
    with pytest.raises(TTameError, match="processor belongs to a module, and 'vgg16' is a name"):
        ttame.attach("vgg16", processor=processor_of("vit"), pretrained=False)


def test_a_processor_serves_any_module(toy: nn.Module) -> None:
    spec = ttame.attach(toy, processor=processor_of("dinov2")).spec
    assert (spec.input_size, spec.resize, spec.mean) == ((64, 64), 72, IMAGENET[0])


def test_a_model_without_a_head_is_refused_with_its_remedy() -> None:
    model = build_hub_member("vit").vit
    with pytest.raises(TTameError, match=r"ViTModel returns .*without `logits`.*AutoModelForImage"):
        ttame.attach(model, **FACTS)  # type: ignore[arg-type]


def test_a_model_without_labels_is_refused() -> None:
    with pytest.raises(TTameError, match=r"ConvNextFor.* has no head \(num_labels=0\)"):
        ttame.attach(build_hub_member("convnext", num_labels=0), **FACTS)


@pytest.mark.parametrize(
    ("problem", "meaning"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
    ],
)
def test_what_the_logits_mean_comes_from_the_config(
    problem: str | None, meaning: str, tmp_path: Path
) -> None:
    model = build_hub_member("convnext", problem_type=problem)
    explainer = ttame.attach(model, **FACTS)
    assert explainer.spec.activation == meaning
    path = explainer.save(tmp_path / "explainer.safetensors")
    assert ttame.load(path, model=model).spec.activation == meaning


def test_regression_is_refused_and_one_logit_has_two_answers() -> None:
    with pytest.raises(TTameError, match="made for regression"):
        ttame.attach(build_hub_member("convnext", problem_type="regression"), **FACTS)
    model = build_hub_member("convnext", num_labels=1, problem_type="multi_label_classification")
    explainer = ttame.attach(model, **FACTS)
    assert explainer.spec.binary and explainer.mechanism.classes == 2
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logit = model(images).logits
        assert torch.allclose(explainer.classifier(images), torch.cat([-logit, logit], 1))


def tuned(family: str = "vit") -> nn.Module:
    """A classifier with LoRA and a head of its own, as fine-tuning makes it."""
    peft = pytest.importorskip("peft", reason="needs peft")
    model = build_hub_member(family)
    model.config.id2label = dict(enumerate(NAMES))  # type: ignore[union-attr]
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]
    )
    adapted: nn.Module = peft.get_peft_model(model, config)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:  # zero otherwise: LoRA would do nothing
            nn.init.normal_(value)
    return adapted.eval()


def test_a_classifier_under_peft(photo: Image.Image, tmp_path: Path) -> None:
    model = tuned()
    explainer = ttame.attach(model, processor=processor_of("vit"))
    assert explainer.layers[0] == "base_model.model.vit.layers.0"
    assert explainer.classes == NAMES and explainer.spec.input_size == (64, 64)
    assert prefix_tokens(explainer.classifier) == 1
    images = normalize(to_batch(photo, explainer.spec), explainer.spec)
    plain = copy.deepcopy(model)
    with torch.inference_mode():
        logits = explainer.classifier(images)
        assert torch.allclose(logits, plain(images).logits, atol=1e-6)
        with plain.disable_adapter():  # type: ignore[operator]
            assert not torch.allclose(logits, plain(images).logits, atol=1e-3)
    path = explainer.save(tmp_path / "explainer.safetensors")
    again = ttame.load(path, model=model)
    assert torch.equal(again.explain(photo).maps, explainer.explain(photo).maps)
    assert math.isfinite(float(build("Grad-CAM", explainer)(images, torch.tensor([1])).sum()))


@pytest.mark.slow
def test_a_classifier_under_peft_is_trained(photos: PhotoList, tmp_path: Path) -> None:
    explainer = ttame.attach(tuned(), processor=processor_of("vit"))
    config = TrainingConfig.of(steps=2, batch_size=4, workers=0)
    assert fit(explainer, photos, config, tmp_path, progress=False).record["steps"] == 2


def test_other_modules_are_none_of_transformers(toy: nn.Module) -> None:
    assert hub_model(toy) is None and hub_model("vit") is None
    model = build_hub_member("vit")
    assert hub_model(model) is model


def test_neither_library_is_imported_for_other_models() -> None:
    code = (
        "import sys, torch.nn as nn, ttame\n"
        "model = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 1), "
        "nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "ttame.attach(model, ['0'], input_size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "assert not {'transformers', 'peft'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["attention rollout", "Transformer attribution", "LeGrad"])
def test_methods_that_read_attention_say_where_they_apply(name: str) -> None:
    message = "classifier of transformers, and attention is read from networks of timm and torch"
    with pytest.raises(TTameError, match=f"ViTForImageClassification is a {message}"):
        build(name, attached("vit"))


NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "10_your_own_classifier.py"


def lines_of_the_book(first: str) -> str:
    """The block of the chapter on one's own classifier that begins with `first`."""
    text = NOTEBOOK.read_text(encoding="utf-8").replace("\n# ", "\n").replace("\n#\n", "\n\n")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    return next(block for block in blocks if block.startswith(first))


def test_clip_is_a_classifier_of_texts(photo: Image.Image, tmp_path: Path) -> None:
    small = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2,
             "intermediate_size": 48}  # fmt: skip
    config = transformers.CLIPConfig(
        text_config=small, vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    clip = transformers.CLIPModel(config).eval()
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=SQUARE)
    texts, names = torch.randn(3, 16), ("a cat", "a dog", "a car")
    scope: dict[str, Any] = {"nn": nn, "F": nn.functional, "ttame": ttame, "clip": clip,
                             "texts": texts, "names": names, "processor": processor}  # fmt: skip
    exec(lines_of_the_book("class ZeroShot"), scope)
    explainer: Explainer = scope["explainer"]
    assert explainer.classes == names
    images = normalize(to_batch(photo, explainer.spec), explainer.spec)
    with torch.no_grad():
        embedded = clip.visual_projection(clip.vision_model(images).pooler_output)
        cosine = nn.functional.cosine_similarity(embedded, texts)
        logits = explainer.classifier(images)
    assert torch.allclose(logits[0], cosine * clip.logit_scale.exp(), atol=1e-4)
    assert explainer.explain(photo, ["a dog"]).maps.shape == (1, 1, 4, 4)
    path = explainer.save(tmp_path / "clip.safetensors")
    again = ttame.load(path, model=scope["ZeroShot"](clip, texts))
    assert torch.equal(again.explain(photo).maps, explainer.explain(photo).maps)
