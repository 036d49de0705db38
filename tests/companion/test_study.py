"""Studies: a file says which runs there are, and every run leaves one record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ttame.companion.studies.records import (
    minutes_left,
    read_runs,
    study_provenance,
    total_minutes,
    unfinished,
)
from ttame.companion.studies.runs import carry_out, choose_classes
from ttame.companion.studies.study import read_study
from ttame.companion.studies.variants import Budget, Run, Variant, changed_config
from ttame.data import PhotoList
from ttame.errors import TTameError
from ttame.evaluation.tables import per_sample
from ttame.files import shipped
from ttame.training.config import TrainingConfig

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
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\nsize = 9\nlayers = 1',
         "'x' on axis 'a' changes 2 things at once: layers, size"),
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\nbase = "y"', "no row 'y' stands before"),
        (BUDGET + '[[variants]]\naxis = "a"\nname = "x"\nspace = "black"', "'black'"),
        (BUDGET + '[axes.b]\nsteps = 1\n[[variants]]\naxis = "a"\nname = "x"',
         "axes: unknown field 'b'"),
        (BUDGET + '[axes.a]\nstep = 1\n[[variants]]\naxis = "a"\nname = "x"',
         "axis 'a': unknown field 'step'"),
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


def test_a_row_changes_its_base_and_an_axis_has_a_budget(tmp_path: Path) -> None:
    text = (
        BUDGET
        + """
        [axes.a]
        seeds = [0, 1]
        [axes.b]
        backbone = "v"
        steps = 7
        [[variants]]
        axis = "a"
        name = "narrow"
        attention = { skip = false }
        [[variants]]
        axis = "a"
        name = "wide"
        base = "narrow"
        attention = { width = 9 }
        [[variants]]
        axis = "b"
        name = "plain"
        """
    )
    found = read_study(write(tmp_path, text))
    assert found.axes == ("a", "b")
    assert found.variants[1].attention == {"skip": False, "width": 9}
    assert [run.name for run in found.runs] == [
        "skip-false_seed0", "skip-false_seed1", "skip-false-width-9_seed0",
        "skip-false-width-9_seed1", "nothing-with-backbone-v-steps-7_seed0",
    ]  # fmt: skip
    assert [(run.budget.backbone, run.budget.steps) for run in found.runs[3:]] == [
        ("tf_efficientnet_lite0", 3), ("v", 7),
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted(shipped("studies").glob("*.toml")), ids=lambda p: p.stem)
def test_the_studies_that_ship_can_be_read(path: Path) -> None:
    found = read_study(path)
    assert len(found.runs) >= 2  # one alone would be compared with nothing
    assert len({run.name for run in found.runs}) == len(found.runs)


def test_changes_reach_the_training() -> None:
    variant = Variant("a", "x", objective={"area": 0.5}, training={"learning_rate": 1.0})
    config = changed_config(variant, TrainingConfig())
    assert (config.objective.area, config.optimization.learning_rate) == (0.5, 1.0)
    assert config.replace(objective=TrainingConfig().objective, learning_rate=2e-4) == (
        TrainingConfig()
    )


def test_classes_are_chosen_by_place(photos: PhotoList) -> None:
    labelled = replace(photos, labels=(7, 7, 3, 3, 9, 9, 7, 1, 1, 3, 9, 1))
    even, odd = choose_classes(labelled, "even"), choose_classes(labelled, "odd")
    assert set(even.labels or ()) == {1, 7} and set(odd.labels or ()) == {3, 9}
    assert len(even) + len(odd) == 12 and choose_classes(labelled, "all") is labelled
    with pytest.raises(TTameError, match="no labels to choose classes by"):
        choose_classes(photos, "odd")


TINY = Budget("tf_efficientnet_lite0", 1, batch_size=4, held_out=2, size=64,
              training={"workers": 0})  # fmt: skip


@pytest.mark.slow
def test_a_run_leaves_one_record(photos: PhotoList, tmp_path: Path) -> None:
    run = Run(Variant("size", "small", size=96), 3, "all", TINY)
    path = carry_out(run, photos, photos, tmp_path / "out", tmp_path / "w")
    assert path == tmp_path / "out" / "size-96_seed3.json"
    found = read_runs(tmp_path / "out")
    assert list(found["photo"]) == list(photos.sample(2).names)
    assert set(found["run"]) == {"size-96_seed3"} and set(found["seed"]) == {3}
    assert (
        found[["probability", "masked_100", "masked_15"]].map(lambda p: 0 <= p <= 1).all(axis=None)
    )
    scores = per_sample(found.assign(method=found["changes"]))
    assert len(scores) == 2 * 3 * 3
    longer = Run(Variant("steps", "ten", training={"steps": 10}), 0, "all", TINY)
    one, ten = minutes_left([run], path.parent), minutes_left([longer], path.parent)
    assert one is not None and ten == pytest.approx(10 * one)
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(TTameError, match="version 9"):
        read_runs(tmp_path / "out")


@pytest.mark.slow
def test_a_failed_run_leaves_its_error_and_is_run_again(photos: PhotoList, tmp_path: Path) -> None:
    out, text = tmp_path / "out", BUDGET + '[[variants]]\naxis = "a"\nname = "x"\n'
    study = read_study(write(tmp_path, text))
    (run,) = study.runs
    run = replace(run, budget=TINY)
    with pytest.raises(TTameError, match="run nothing_seed0 failed: "):
        carry_out(run, photos.select([]), photos, out, tmp_path / "w")
    left = unfinished(study, out)
    assert list(left["variant"]) == ["x"] and left["state"].iloc[0].startswith("failed: ")
    carry_out(run, photos, photos, out, tmp_path / "w")
    assert unfinished(study, out).empty and not list(out.glob("*.failure"))


def test_what_was_not_run_is_listed(tmp_path: Path) -> None:
    study = read_study(write(tmp_path, BUDGET + '[[variants]]\naxis = "a"\nname = "x"'))
    assert unfinished(study, tmp_path).to_dict("list") == {
        "variant": ["x"], "seed": [0], "state": ["not run"],
    }  # fmt: skip
    assert minutes_left(study.runs, tmp_path) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"space": "raw"}, {"measured_space": "raw"}, {"inference": "sigmoid"},
        {"training": {"truth": "ground"}}, {"layers": ("blocks.4", "blocks.6")},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_change_reaches_the_measurement(
    photos: PhotoList, tmp_path: Path, change: dict[str, object]
) -> None:
    labelled = replace(photos, labels=tuple(range(len(photos))))
    budget = replace(TINY, recipe="published", training={"workers": 0, "learning_rate": 0.1})
    records = []
    for variant in (Variant("a", "plain"), Variant("a", "other", **change)):  # type: ignore[arg-type]
        run = Run(variant, 0, "all", budget)
        carry_out(run, labelled, labelled, tmp_path / "out", tmp_path / "w")
        records.append(read_runs(tmp_path / "out").query("run == @run.name"))
    plain, other = records
    assert list(plain["photo"]) == list(other["photo"])
    assert list(plain["probability"]) == list(other["probability"])
    assert list(plain["masked_50"]) != list(other["masked_50"])


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(TTameError, match="no record of a study"):
        read_runs(tmp_path)


def test_minutes_that_are_not_known_are_not_counted_as_none_at_all() -> None:
    assert total_minutes([1.0, 2.4]) == "3"
    assert total_minutes(iter([1.0, None, 2.4])) == "3 and those of 1 runs, not recorded"


def test_provenance_says_what_all_runs_took() -> None:
    folder = shipped("results") / "ablations"
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    facts = study_provenance(folder)["provenance"]
    assert facts["runs"] == str(len(runs))
    assert facts["minutes of all runs"] == f"{sum(run['minutes'] for run in runs):.0f}"
