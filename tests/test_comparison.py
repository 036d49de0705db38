"""Paired differences by hand, and the count of passes on a toy classifier."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from ttame.comparison import paired_differences
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation import evaluate, summary
from ttame.explainer import Explainer
from ttame.methods import build
from ttame.passes import count_passes
from ttame.results import read_results


def long(values: dict[str, list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"photo": str(i), "method": name, "percentage": 50, "metric": "AD", "value": value}
            for name, column in values.items()
            for i, value in enumerate(column)
        ]
    )


def test_differences_are_paired_by_photo() -> None:
    table = paired_differences(long({"T-TAME": [10, 20, 30], "b": [12, 24, 36], "c": [10, 20, 30]}))
    first, second = table.iloc[0], table.iloc[1]
    assert first["against"] == "b" and first["difference"] == pytest.approx(-4)  # -(2 + 4 + 6) / 3
    # Every resample's mean lies between the extremes of the differences, -6 and -2.
    assert -6 <= first["low"] <= first["difference"] <= first["high"] <= -2
    assert second["difference"] == second["low"] == second["high"] == 0 and second["p"] == 1


def test_a_clear_difference_is_significant_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator)
    other = torch.randn(200, generator=generator)
    table = paired_differences(
        long(
            {
                "T-TAME": noise.tolist(),
                "worse": (noise + 2 + other).tolist(),
                "same": other.tolist(),
            }
        )
    ).set_index("against")
    assert table.loc["worse", "high"] < 0 and table.loc["worse", "p"] < 1e-6
    assert (
        table.loc["same", "low"] < 0 < table.loc["same", "high"] and table.loc["same", "p"] > 0.01
    )


def test_missing_methods_and_photos_are_refused() -> None:
    with pytest.raises(TTameError, match="not measured"):
        paired_differences(long({"b": [1.0]}))
    with pytest.raises(TTameError, match="every photo"):
        paired_differences(long({"T-TAME": [1, 2], "b": [1]}))


@pytest.mark.parametrize(
    ("name", "forward", "backward"),
    [("T-TAME", 1, 0), ("Grad-CAM", 1, 1), ("all ones", 0, 0), ("Integrated Gradients", 50, 50)],
)
def test_passes_are_counted_by_image(
    name: str, forward: int, backward: int, explainer: Explainer, images: Tensor
) -> None:
    targets = torch.zeros(len(images), dtype=torch.int64)
    with count_passes(explainer.classifier) as passes:
        build(name, explainer)(images, targets)
    assert passes.forward == forward * len(images)
    assert passes.backward == backward * len(images)
    assert not explainer.classifier._forward_hooks


def test_score_cam_takes_a_pass_a_channel(explainer: Explainer, images: Tensor) -> None:
    with count_passes(explainer.classifier) as passes:
        build("Score-CAM", explainer)(images, torch.zeros(len(images), dtype=torch.int64))
    assert passes.forward == (1 + 16) * len(images)


def test_evaluation_records_road_and_passes(
    explainer: Explainer, photos: PhotoList, tmp_path: Path
) -> None:
    out = evaluate(
        explainer, photos, tmp_path / "r.jsonl", methods=("T-TAME", "Grad-CAM", "random"),
        metrics=("AD/IC", "ROAD"),
    )  # fmt: skip
    _, records = read_results(out)
    assert {len(row) for row in records["road_morf"]} == {7}
    table = summary(out)
    assert table["forward"].tolist() == [1, 1, 0] and table["backward"].tolist() == [0, 1, 0]
    assert table[["ROAD MoRF", "ROAD LeRF"]].stack().between(0, 100).all()
    with pytest.raises(TTameError, match="ROAD"):
        evaluate(explainer, photos, tmp_path / "x.jsonl", metrics=("ROAD!",))
