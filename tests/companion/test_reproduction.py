"""Every number: values from the records, published ones beside them, whole commands, gaps."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app as benchmarks
from ttame.cli.main import app
from ttame.companion.reproduction import (
    NOT_RUN,
    PAPERS,
    Made,
    ablation_table,
    command_list,
    evaluations,
    progress,
    score_table,
    studies,
    trainings,
)
from ttame.companion.reproduction import benchmarks as benchmark_records
from ttame.companion.shipped import reference, training_record
from ttame.companion.studies.records import FORMAT, VERSION
from ttame.errors import TTameError
from ttame.evaluation.tables import summary
from ttame.records import write_record

AD, IC = "AD at 100 · 50 · 15 %", "IC at 100 · 50 · 15 %"


def write_run(folder: Path, changes: str, masked: float, minutes: float | None = 2.0) -> None:
    """One photo whose probability goes from 0.8 to `masked` at every share."""
    training = {"minutes": minutes}
    write_record(
        folder / f"{changes}_seed0.json", FORMAT, VERSION,
        changes=changes, shown="all", training=training, photos=["a/1.jpg"], targets=[0],
        probability=[0.8], masked_100=[masked], masked_50=[masked], masked_15=[masked],
    )  # fmt: skip


def joined(*numbers: str) -> str:
    """Numbers of one cell, which no line break parts."""
    return "\u00a0·\u00a0".join(numbers)


def test_scores_are_those_of_the_records() -> None:
    table = score_table("imagenette_val.jsonl")
    means = summary(reference("imagenette_val.jsonl")).loc["T-TAME"]
    expected = joined(*(f"{means[f'AD {share}%']:.1f}" for share in (100, 50, 15)))
    assert table.loc["T-TAME", AD] == expected
    assert table.loc["T-TAME", "passes forward · backward"] == joined("1", "0")
    assert table.loc["T-TAME", "photos AD, IC · ROAD"] == joined("500", "100")
    assert not any("published" in column for column in table)


def test_published_values_stand_beside_ours_where_there_are_any() -> None:
    table = score_table("vit_*.jsonl", {"Grad-CAM": {AD: "1 · 2 · 3"}})
    assert list(table)[:3] == [AD, f"{AD}, published", IC]
    assert table.loc["Grad-CAM", f"{AD}, published"] == "1 · 2 · 3"
    assert set(table[f"{AD}, published"]) == {"", "1 · 2 · 3"}
    for wrong in ({"Grad-CAMM": {AD: "1"}}, {"Grad-CAM": {"AD": "1"}}):
        with pytest.raises(TTameError, match="has no place; rows are T-TAME"):
            score_table("vit_*.jsonl", wrong)


def test_every_explainer_of_a_classifier_has_a_row_of_its_own() -> None:
    rows = list(score_table("vit_*.jsonl").index)
    assert rows[:2] == ["T-TAME", "T-TAME, vit_imagenette_cls"]
    assert len(rows) == len(set(rows))


def test_missing_results_are_named() -> None:
    with pytest.raises(TTameError, match="nothing"):
        score_table("nothing*.jsonl")


def test_training_is_told_from_its_record_and_the_papers_is_not_run() -> None:
    found = {made.name: made for made in trainings()}
    record = training_record("tf_efficientnet_lite0")
    facts = found["explainer tf_efficientnet_lite0"].facts
    assert f"{record['minutes']:.1f} minutes" in facts
    assert f"commit {record['commit']}" in facts
    assert [made.facts for made in found.values()].count((NOT_RUN,)) == len(PAPERS)


def test_study_that_was_not_run_says_so(tmp_path: Path) -> None:
    assert "ablations" in studies()
    table = ablation_table("little_data", tmp_path)
    assert set(table[AD]) == {NOT_RUN}
    assert set(table["runs"]) == {"0"}
    (made,) = progress(["little_data"], tmp_path)
    assert made.facts[0].startswith("0 of ") and made.facts[1] == NOT_RUN


def test_study_in_part_shows_what_is_there(tmp_path: Path) -> None:
    write_run(tmp_path / "little_data", "nothing", 0.6)
    table = ablation_table("little_data", tmp_path)
    assert table.loc["148 steps", AD] == joined("25.0", "25.0", "25.0")  # 0.2 of 0.8
    assert table.loc["148 steps", IC] == joined("0.0", "0.0", "0.0")
    assert table.loc["37 steps", AD] == NOT_RUN
    assert table.loc["37 steps", "axis"] == "steps"


def test_study_without_a_file_is_listed_by_its_records(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", "width=8", 0.9)
    write_run(tmp_path / "mine", "width=16", 0.4, minutes=None)
    table = ablation_table("mine", tmp_path)
    assert table.loc["width=8", IC] == joined("100.0", "100.0", "100.0")
    assert table.loc["width=16", AD] == joined("50.0", "50.0", "50.0")
    (made,) = progress(["mine"], tmp_path)
    assert made.facts == ("2 runs", "2 and those of 1 runs, not recorded minutes of training")


def test_commands_are_whole_and_can_be_copied() -> None:
    command = f"ttame evaluate --methods 'T-TAME,Grad-CAM (saturated)' --out {'x' * 70} --limit 5"
    text = command_list([Made("a", ("5 photos", "2026-01-01"), command)])
    assert text.startswith("**`a`**: 5 photos, 2026-01-01\n\n```console\n$ ttame evaluate")
    block = text.split("```console\n$ ")[1].removesuffix("\n```")
    assert shlex.split(block.replace("\\\n", "")) == shlex.split(command)
    assert [line.split()[0] for line in block.splitlines()] == ["ttame", "--out", "--limit"]


# Commands of older records that are `python -m benchmarks NAME` today.
BENCHMARKS = {
    "bench": "explaining",
    "bench-training": "training",
    "bench-scaling": "scaling",
    "families": "families",
    "distill": "distill",
}


def test_commands_of_all_tables_can_be_given_today() -> None:
    """Recorded commands name options; those must not have gone since."""
    results = evaluations(["*.jsonl", "every_metric/*.jsonl"])
    made = [*results, *trainings(), *benchmark_records(), *progress(studies())]
    for command in (item.command for item in made):
        program, words = "ttame", shlex.split(command.removeprefix("python -m "))
        assert words[0] in (program, "benchmarks"), command
        bench = BENCHMARKS.get(words[1]) if words[0] == program else words[1]
        asked = (benchmarks, [bench, "--help"]) if bench else (app, [words[1], "--help"])
        shown = CliRunner().invoke(*asked, env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.output, command


def test_a_run_that_went_on_elsewhere_is_listed_with_both_machines() -> None:
    (found,) = evaluations(["every_metric/kinds_cam.jsonl"])
    assert "1 x NVIDIA H100 80GB HBM3" in found.facts
    assert any(fact.startswith("resumed after 780 records, 2026-11-27") for fact in found.facts)
