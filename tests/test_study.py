"""Studies: a file says which runs there are, and every run leaves one record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ttame.ablations import Variant
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.files import shipped
from ttame.recipes import TrainingConfig
from ttame.study import (
    Budget,
    Run,
    carry_out,
    choose_classes,
    read_runs,
    read_study,
)
from ttame.tables import per_sample
from ttame.variants import changed_config

BUDGET = '[budget]\nbackbone = "tf_efficientnet_lite0"\nsteps = 3\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_runs_are_variants_times_seeds_times_classes(tmp_path: Path) -> None:
    text = """
        [budget]
        backbone = "b"
        steps = 3
        seeds = [0, 1]
        [[variants]]
        axis = "a"
        name = "x"
        [[variants]]
        axis = "b"
        name = "the same"
        [[variants]]
        axis = "b"
        name = "small"
        size = 64
        seeds = [5]
        shown = ["even", "odd"]
        """
    found = read_study(write(tmp_path, text))
    assert found.budget == Budget("b", 3, seeds=(0, 1))
    assert [row.name for row in found.variants] == ["x", "the same", "small"]
    assert [run.name for run in found.runs] == [
        "nothing_seed0", "nothing_seed1", "size-64_even_seed5", "size-64_odd_seed5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget = 3 4", "is not TOML"),
        ("[budgets]", "unknown field 'budgets'.*Did you mean 'budget'"),
        ("[budget]\nsteps = 3", "backbone and steps are needed"),
        (BUDGET + "speed = 1", "unknown field 'speed'"),
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\nlayer = 2',
         "variant 'x': unknown field 'layer'.*Did you mean 'layers'"),
        (BUDGET + '[[variants]]\nname = "x"', "axis and name are needed"),
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\nshown = ["half"]', "'half'"),
        (BUDGET + 2 * '[[variants]]\naxis = "a"\nname = "x"\n', "two rows on axis 'a'"),
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\ntraining = { stepps = 1 }',
         "no field 'stepps'.*Did you mean 'steps'"),
    ],
)  # fmt: skip
def test_a_study_that_means_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TTameError, match=message):
        read_study(write(tmp_path, text))


def test_a_missing_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match=r"nothing\.toml"):
        read_study(tmp_path / "nothing.toml")


@pytest.mark.parametrize("name", ["every_class", "little_data"])
def test_the_studies_that_ship_can_be_read(name: str) -> None:
    found = read_study(shipped("studies") / f"{name}.toml")
    assert len(found.runs) >= 10
    assert len({run.name for run in found.runs}) == len(found.runs)


def test_changes_reach_the_training() -> None:
    variant = Variant("a", "x", objective={"area": 0.5}, training={"learning_rate": 1.0})
    config = changed_config(variant, TrainingConfig())
    assert (config.objective.area, config.learning_rate) == (0.5, 1.0)
    assert replace(config, objective=TrainingConfig().objective, learning_rate=2e-4) == (
        TrainingConfig()
    )


def test_classes_are_chosen_by_place(photos: PhotoList) -> None:
    labelled = replace(photos, labels=(7, 7, 3, 3, 9, 9, 7, 1, 1, 3, 9, 1))
    even, odd = choose_classes(labelled, "even"), choose_classes(labelled, "odd")
    assert set(even.labels or ()) == {1, 7} and set(odd.labels or ()) == {3, 9}
    assert len(even) + len(odd) == 12 and choose_classes(labelled, "all") is labelled
    with pytest.raises(TTameError, match="no labels to choose classes by"):
        choose_classes(photos, "odd")


@pytest.mark.slow
def test_a_run_leaves_one_record(photos: PhotoList, tmp_path: Path) -> None:
    budget = Budget("tf_efficientnet_lite0", 1, batch_size=4, size=64, training={"workers": 0})
    run = Run(Variant("size", "small", size=32), 3, "all")
    path = carry_out(run, budget, photos, photos.select([0, 1]), tmp_path / "out", tmp_path / "w")
    assert path == tmp_path / "out" / "size-32_seed3.json"
    found = read_runs(tmp_path / "out")
    assert list(found["photo"]) == list(photos.names[:2])
    assert set(found["run"]) == {"size-32_seed3"} and set(found["seed"]) == {3}
    assert (
        found[["probability", "masked_100", "masked_15"]].map(lambda p: 0 <= p <= 1).all(axis=None)
    )
    scores = per_sample(found.assign(method=found["changes"]))
    assert len(scores) == 2 * 3 * 3
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(TTameError, match="version 9"):
        read_runs(tmp_path / "out")


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match="no record of a study"):
        read_runs(tmp_path)
