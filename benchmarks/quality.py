"""What training time buys: runs of one recipe at several lengths, against a method without any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ttame.data import PhotoList
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import intervals, scores
from ttame.explainer import Explainer
from ttame.methods import Method, build, ttame_method
from ttame.records import read_results
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit

# Each run has its own schedule: one cut short would be judged at a high learning rate.
STEPS = (43, 86, 171, 342, 684)


def measure_quality(
    explainer: Explainer,
    config: TrainingConfig,
    train: PhotoList,
    sets: Sequence[PhotoList],
    work: Path,
    steps: Sequence[int] = STEPS,
    rival: str = "Grad-CAM",
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Train an explainer anew at each number of steps, and score all runs beside a rival.

    Args:
        explainer: Untrained, on the CPU; not changed.
        config: How to train; its number of steps is replaced.
        train: Photos to train on.
        sets: Photos to measure on, one list per set.
        work: Folder of runs and results; a run that was killed is resumed, its minutes are then
            unknown.
        steps: Optimiser steps of each run.
        rival: Method of `ttame.methods` to compare with.
        progress: Called with (what is done, done, in all).

    Returns:
        One row per set, run and score: steps, minutes of training with its start, the mean in
        percent with its 95 % interval, the rival's mean, and the paired difference from the rival
        with its interval and verdict.

    Raises:
        TTameError: As `ttame.training.fit.fit` and `evaluate`.
    """
    minutes: dict[int, float | None] = {}
    methods: dict[str, Method] = {rival: build(rival, explainer.eval())}
    for done, count in enumerate(steps, 1):
        folder = work / f"{count}-steps"
        begun = (folder / "checkpoints" / "last.ckpt").is_file()
        trained = fit(explainer, train, config.replace(steps=count), folder, name="run",
                      resume=begun, progress=False)  # fmt: skip
        spent: Any = trained.record["minutes"]
        minutes[count] = None if begun else spent
        fresh = explainer.replace(mechanism=trained.mechanism)
        methods[f"{count} steps"] = ttame_method(fresh.eval())
        if progress:
            progress("training", done, len(steps))
    rows: list[Any] = []
    for done, photos in enumerate(sets, 1):
        out = work / f"{photos.name.replace('/', '-')}.jsonl"
        out.unlink(missing_ok=True)
        evaluate(explainer, photos, out, methods=methods)
        records = read_results(out)[1]
        long, means = scores(records), intervals(records).set_index(["method", "score"])
        for count, spent in minutes.items():
            name = f"{count} steps"
            pairs = paired_differences(long[long["method"].isin([name, rival])], name)
            pairs = pairs.rename(columns={key: f"difference_{key}" for key in ("low", "high")})
            table = means.loc[name].join(pairs.set_index("score").drop(columns=["p", "photos"]))
            table = table.assign(
                rival=means.loc[rival]["mean"], data=photos.name, steps=count, minutes=spent
            )
            rows += table.round(3).reset_index().to_dict("records")
        if progress:
            progress("measuring", done, len(sets))
    return rows
