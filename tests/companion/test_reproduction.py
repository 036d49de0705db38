"""The tables of every number: values from the records, room for published ones, honest gaps."""

from __future__ import annotations

import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app as benchmarks
from ttame.cli.main import app
from ttame.companion.reproduction import (
    NOT_RUN,
    OURS,
    PAPERS,
    PUBLISHED,
    ablation_table,
    benchmark_table,
    evaluation_table,
    progress_table,
    score_table,
    studies,
    training_table,
)
from ttame.companion.shipped import reference, training_record
from ttame.companion.studies.records import FORMAT, VERSION
from ttame.errors import TTameError
from ttame.evaluation.tables import summary
from ttame.records import write_record

AD, IC = "AD at 100 · 50 · 15 %", "IC at 100 · 50 · 15 %"


def published(table: pd.DataFrame) -> pd.DataFrame:
    return table.loc[:, [column for column in table if PUBLISHED in "".join(column)]]


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


def test_scores_are_those_of_the_records_and_published_ones_are_left_empty() -> None:
    table = score_table("imagenette_val.jsonl")
    means = summary(reference("imagenette_val.jsonl")).loc["T-TAME"]
    expected = joined(*(f"{means[f'AD {share}%']:.1f}" for share in (100, 50, 15)))
    assert table.loc["T-TAME", (AD, OURS)] == expected
    assert table.loc["T-TAME", ("passes forward · backward", OURS)] == joined("1.0", "0.0")
    assert published(table).shape[1] == 4
    assert (published(table) == "").all(axis=None)


def test_every_explainer_of_a_classifier_has_a_row_of_its_own() -> None:
    rows = list(score_table("vit_*.jsonl").index)
    assert rows[:2] == ["T-TAME", "T-TAME, vit_imagenette_cls"]
    assert len(rows) == len(set(rows))


def test_missing_results_are_named() -> None:
    with pytest.raises(TTameError, match="nothing"):
        score_table("nothing*.jsonl")


def test_training_is_told_from_its_record_and_the_papers_is_not_run() -> None:
    table = training_table()
    minutes = training_record("tf_efficientnet_lite0")["minutes"]
    column = f"minutes, {OURS}"
    assert table.loc[("explainer", "tf_efficientnet_lite0"), column] == f"{minutes:.1f}"
    papers = table[table["profile"] == "imagenet"]
    assert len(papers) == len(PAPERS)
    assert set(papers[column]) == {NOT_RUN}
    assert set(table[f"minutes, {PUBLISHED}"]) == {""}


def test_study_that_was_not_run_says_so(tmp_path: Path) -> None:
    assert "ablations" in studies()
    table = ablation_table("little_data", tmp_path)
    assert set(table[AD, OURS]) == {NOT_RUN}
    assert set(table["runs", ""]) == {"0"}
    assert set(progress_table(["little_data"], tmp_path)["minutes of training"]) == {NOT_RUN}


def test_study_in_part_shows_what_is_there(tmp_path: Path) -> None:
    write_run(tmp_path / "little_data", "nothing", 0.6)
    table = ablation_table("little_data", tmp_path)
    assert table.loc[("steps", "148 steps"), (AD, OURS)] == joined(
        "25.0", "25.0", "25.0"
    )  # 0.2 of 0.8
    assert table.loc[("steps", "148 steps"), (IC, OURS)] == joined("0.0", "0.0", "0.0")
    assert table.loc[("steps", "37 steps"), (AD, OURS)] == NOT_RUN
    assert (published(table) == "").all(axis=None)


def test_study_without_a_file_is_listed_by_its_records(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", "width=8", 0.9)
    write_run(tmp_path / "mine", "width=16", 0.4, minutes=None)
    table = ablation_table("mine", tmp_path)
    assert table.loc[("", "width=8"), (IC, OURS)] == joined("100.0", "100.0", "100.0")
    assert table.loc[("", "width=16"), (AD, OURS)] == joined("50.0", "50.0", "50.0")
    row = progress_table(["mine"], tmp_path).loc["mine"]
    assert row["runs"] == "2"
    assert row["minutes of training"] == "2 and those of 1 runs, not recorded"


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
    results = evaluation_table(["imagenette_val*.jsonl", "vit_*.jsonl"])
    tables = [results, training_table(), benchmark_table(), progress_table(studies())]
    for command in (command for table in tables for command in table["command"]):
        program, words = "ttame", shlex.split(command.removeprefix("python -m "))
        assert words[0] in (program, "benchmarks"), command
        bench = BENCHMARKS.get(words[1]) if words[0] == program else words[1]
        asked = (benchmarks, [bench, "--help"]) if bench else (app, [words[1], "--help"])
        shown = CliRunner().invoke(*asked, env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for option in (word for word in words if word.startswith("--")):
            assert option in shown.output, command
