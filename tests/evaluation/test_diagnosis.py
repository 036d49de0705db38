"""Diagnosis: parts sum to the map, known branches give known numbers, dropping is measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.attention import AttentionConfig, AttentionMechanism
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.diagnosis import keep_layers, layer_costs
from ttame.explainer import Explainer


def with_config(explainer: Explainer, config: AttentionConfig) -> Explainer:
    given = explainer.mechanism
    mechanism = AttentionMechanism(given.channels, given.classes, config)
    return explainer.replace(mechanism=mechanism).eval()


def layer_statistics(explainer: Explainer, images: Tensor) -> pd.DataFrame:
    return pd.DataFrame(explainer.layer_statistics(images)).set_index("layer")


def test_parts_and_bias_sum_to_the_map(explainer: Explainer, images: Tensor) -> None:
    explainer.eval()
    with torch.no_grad():
        logits, maps = explainer.extract(images)
        targets = logits.topk(2, dim=1).indices
        parts = explainer.mechanism.layer_parts(maps, targets)
        bias = explainer.mechanism.fusion.bias
        assert bias is not None and len(parts) == len(explainer.layers)
        total = torch.stack(parts).sum(0) + bias[targets][..., None, None]
        assert torch.allclose(total, explainer.mechanism(maps, targets), atol=1e-6)


def test_a_layer_whose_rows_are_zero_has_no_share(explainer: Explainer, images: Tensor) -> None:
    kept = explainer.layers[-1]
    table = layer_statistics(keep_layers(explainer.eval(), [kept]), images)
    assert table.loc[explainer.layers[0], "share"] == 0
    assert table.loc[explainer.layers[0], "correlation"] == 0
    assert table.loc[kept, "share"] == pytest.approx(1, abs=1e-5)
    assert table.loc[kept, "correlation"] == pytest.approx(1, abs=1e-5)


def test_shares_and_correlation_by_hand(explainer: Explainer, images: Tensor) -> None:
    explainer.eval()
    table = layer_statistics(explainer, images)
    with torch.no_grad():
        logits, maps = explainer.extract(images)
        targets = logits.argmax(dim=1, keepdim=True)
        whole = explainer.mechanism(maps, targets).double().flatten(1)
        only = keep_layers(explainer, explainer.layers[:1])
        part = only.mechanism(maps, targets).double().flatten(1)
    shares = [float(p.std() / w.std()) for p, w in zip(part, whole, strict=True)]
    found = [
        float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(part, whole, strict=True)
    ]
    assert table["share"].iloc[0] == pytest.approx(sum(shares) / len(shares), rel=1e-4)
    assert table["correlation"].iloc[0] == pytest.approx(sum(found) / len(found), rel=1e-3)


def test_moved_is_zero_at_the_identity_and_one_when_doubled(
    explainer: Explainer, images: Tensor
) -> None:
    changed = with_config(explainer, AttentionConfig(activation="identity", batch_norm=False))
    with torch.no_grad():
        for branch in changed.mechanism.branches:
            branch.convolution.weight.zero_()  # type: ignore[union-attr]
            branch.convolution.bias.zero_()  # type: ignore[union-attr]
    assert layer_statistics(changed, images)["moved"].tolist() == [0.0] * len(changed.layers)
    with torch.no_grad():
        for branch in changed.mechanism.branches:
            torch.nn.init.dirac_(branch.convolution.weight)  # type: ignore[union-attr, arg-type]
    table = layer_statistics(changed, images)
    assert table["moved"].tolist() == pytest.approx([1.0] * len(changed.layers), abs=1e-5)
    assert table["gain"].isna().all()


def test_gain_is_the_batch_norm_weight(explainer: Explainer, images: Tensor) -> None:
    changed = with_config(explainer, AttentionConfig())
    for branch in changed.mechanism.branches:
        torch.nn.init.constant_(branch.norm.weight, -0.25)  # type: ignore[union-attr, arg-type]
    assert layer_statistics(changed, images)["gain"].tolist() == [0.25] * len(changed.layers)


def test_costs_name_every_reader_and_see_a_useless_layer(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    useful = explainer.layers[1:]
    table = layer_costs(keep_layers(explainer.eval(), useful), photos, tmp_path / "costs.jsonl")
    dropped = table[table["against"] == f"without {explainer.layers[0]}"]
    assert set(dropped["verdict"]) == {"open"}
    assert (dropped["difference"] == 0).all()
    readers = {f"without {name}" for name in explainer.layers}
    assert readers <= set(table["against"])


def test_bad_input_is_refused(
    explainer: Explainer, images: Tensor, photos: PhotoList, tmp_path: Path
) -> None:
    with pytest.raises(TTameError, match="training mode"):
        layer_statistics(explainer.train(), images)
    with pytest.raises(TTameError, match=r"reads .* not 'nowhere'"):
        keep_layers(explainer.eval(), ["nowhere"])
    single = explainer.replace(
        layers=explainer.layers[-1:],
        mechanism=AttentionMechanism(
            explainer.mechanism.channels[-1:], explainer.mechanism.classes
        ).eval(),
    )
    with pytest.raises(TTameError, match="single layer"):
        layer_costs(single, photos, tmp_path / "costs.jsonl")
