"""Ablations: a study says what it means, and a variant changes what its name says."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.ablations import (
    STUDY,
    Variant,
    at_layer,
    keep_layers,
    resized,
    select_axis,
    study,
    study_table,
)
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.explainer import Explainer
from ttame.recipes import published
from ttame.variants import build_variant, run_variant

BACKBONE = "tf_efficientnet_lite0"


def test_every_axis_has_one_row_that_changes_nothing() -> None:
    rows = study(STUDY)
    for axis in dict.fromkeys(row.axis for row in rows):
        assert sum(row.changes == "nothing" for row in rows if row.axis == axis) == 1
    assert list(study_table(rows).columns) == ["variant", "what differs"]


def test_variant_refuses_a_field_that_does_not_exist() -> None:
    with pytest.raises(TTameError, match=r"no field 'skipp'.*Did you mean 'skip'"):
        Variant("architecture", "typo", attention={"skipp": False})
    with pytest.raises(TTameError, match="TrainingConfig has no field 'speed'"):
        Variant("start", "typo", training={"speed": 1})


@pytest.mark.parametrize("second", [Variant("a", "x", layers=1), Variant("a", "y")])
def test_study_refuses_duplicates(second: Variant) -> None:
    with pytest.raises(TTameError, match="two rows on axis 'a'"):
        study([Variant("a", "x"), second])


def test_variant_changes_layers_and_architecture_only() -> None:
    plain = build_variant(Variant("layers", "all"), BACKBONE)
    two = build_variant(Variant("layers", "two", layers=2), BACKBONE, size=64)
    bare = build_variant(Variant("architecture", "bare", attention={"skip": False}), BACKBONE)
    assert two.layers == plain.layers[-2:]
    assert two.spec.input_size == (64, 64)
    assert (plain.mechanism.config.skip, bare.mechanism.config.skip) == (True, False)
    with pytest.raises(TTameError, match="asks for 4 layers"):
        build_variant(Variant("layers", "four", layers=4), BACKBONE)


def test_run_variant_applies_its_objective(photos: PhotoList, tmp_path: Path) -> None:
    config = published(steps=1, batch_size=4, workers=0)
    variant = Variant("loss terms", "no area", objective={"area": 0.0})
    trained = run_variant(variant, BACKBONE, photos, config, tmp_path / "run", size=64)
    assert trained.record["name"] == "no area"
    settings = trained.record["config"]
    assert isinstance(settings, dict)
    assert settings["objective"]["area"] == 0.0
    assert settings["objective"]["variation"] == config.objective.variation


def test_layers_add_up_to_the_map(explainer: Explainer, images: Tensor) -> None:
    targets = torch.zeros(len(images), 1, dtype=torch.int64)
    bias = explainer.mechanism.fusion.bias
    assert bias is not None
    with torch.inference_mode():
        whole = explainer(images, targets)[2] - bias[0]
        parts = [keep_layers(explainer, [name])(images, targets)[2] for name in explainer.layers]
    torch.testing.assert_close(sum(part - bias[0] for part in parts), whole)
    with pytest.raises(TTameError, match="not 'stages'"):
        keep_layers(explainer, ["stages"])


def test_copies_leave_the_explainer_alone(explainer: Explainer) -> None:
    assert at_layer(explainer, "stages.1").spec.cam_layer == "stages.1"
    assert resized(explainer, 64).spec.input_size == (64, 64)
    assert (explainer.spec.cam_layer, explainer.spec.input_size) == ("", (32, 32))


def test_select_axis_renames_and_orders() -> None:
    rows = (Variant("layers", "three"), Variant("layers", "one", layers=1), Variant("a", "x"))
    table = pd.DataFrame({"method": ["layers=1", "nothing", "Grad-CAM"], "value": [1.0, 3.0, 0.0]})
    found = select_axis(table, rows, "layers")
    assert found.to_dict("list") == {"method": ["three", "one"], "value": [3.0, 1.0]}
    with pytest.raises(TTameError, match="no axis 'depth'"):
        select_axis(table, rows, "depth")
