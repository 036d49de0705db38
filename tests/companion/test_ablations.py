"""Ablations: a study says what it means, and a variant changes what its name says."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.companion.studies.runs import at_layer, build_variant, masked_in, resized
from ttame.companion.studies.study import read_study, study
from ttame.companion.studies.tables import axis_runs, study_table
from ttame.companion.studies.variants import Variant
from ttame.errors import TTameError
from ttame.evaluation.diagnosis import keep_layers
from ttame.explainer import Explainer
from ttame.files import shipped

BACKBONE = "tf_efficientnet_lite0"


def test_every_axis_has_one_row_that_changes_nothing() -> None:
    found = read_study(shipped("studies") / "ablations.toml")
    for axis in found.axes:
        rows = [row for row in found.variants if row.axis == axis]
        assert sum(not row.changed for row in rows) == 1, axis
        assert len(rows) > 1, axis
    assert list(study_table(found.variants).columns) == ["variant", "what differs"]


def test_several_fields_are_one_change_where_the_row_says_why() -> None:
    both = {"skip": False, "width": 4}
    with pytest.raises(TTameError, match="changes 2 things at once: skip, width"):
        study([Variant("a", "x", attention=both)])
    (row,) = study([Variant("a", "x", attention=both, together="a width leaves nothing to add")])
    assert row.attention == both


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
    named = build_variant(Variant("layers", "named", layers=("blocks.1", "blocks.3")), BACKBONE)
    assert named.layers == ("blocks.1", "blocks.3")
    blocks = build_variant(Variant("layers", "x", layers="block outputs"), "vit_imagenette")
    assert blocks.layers == ("blocks.2", "blocks.3", "blocks.4")


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
    assert masked_in(explainer, "normalized").spec.space == "normalized"
    assert masked_in(explainer, None).spec == explainer.spec
    assert (explainer.spec.cam_layer, explainer.spec.input_size) == ("", (32, 32))


def test_an_axis_is_renamed_and_ordered() -> None:
    rows = (Variant("layers", "three"), Variant("layers", "one", layers=1), Variant("a", "x"))
    table = pd.DataFrame({"method": ["layers=1", "nothing", "Grad-CAM"], "value": [1.0, 3.0, 0.0]})
    found = axis_runs(table, rows, "layers")
    assert found.to_dict("list") == {"method": ["three", "one"], "value": [3.0, 1.0]}
    with pytest.raises(TTameError, match="no axis 'depth'"):
        axis_runs(table, rows, "depth")
