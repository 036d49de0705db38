"""Verdicts of studies: variants ranked, axes in a sentence, and others' claims put to the test."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ttame.companion.studies.study import Claim, Study
from ttame.companion.studies.tables import axis_runs, combined, differences
from ttame.errors import TTameError
from ttame.evaluation.confidence import higher_is_better


def ranking(long: pd.DataFrame, study: Study, resamples: int = 1000) -> pd.DataFrame:
    """Compare every variant that was run with the default of its axis, best first.

    Args:
        long: `ttame.companion.studies.tables.run_scores`.
        study: The study.
        resamples: Number of bootstrap resamples.

    Returns:
        Columns axis, variant, and those of `differences` for `combined` scores.

    Raises:
        TTameError: If no variant has been run together with its default.
    """
    one, pieces = combined(long), []
    present = set(one["method"])
    for row in study.variants:
        plain = next(other for other in study.variants
                     if other.axis == row.axis and not other.changed)  # fmt: skip
        if row.changed and {row.changes, plain.changes} <= present:
            found = differences(one, row.changes, plain.changes, resamples)
            pieces.append(found.assign(axis=row.axis, variant=row.name))
    if not pieces:
        raise TTameError("no variant and the row that it differs from are there yet")
    table = pd.concat(pieces).sort_values("difference", ascending=False, kind="stable")
    columns = ["axis", "variant", "difference", "low", "high", "seeds", "verdict"]
    return table[columns].reset_index(drop=True)


def check_claims(long: pd.DataFrame, study: Study, resamples: int = 1000) -> pd.DataFrame:
    """Compare what the papers' authors found of variants with what was measured.

    Args:
        long: `ttame.companion.studies.tables.run_scores`.
        study: The study, with its claims.
        resamples: Number of bootstrap resamples.

    Returns:
        Columns claim, on (the score), measured (advantage of the row said to be better, percentage
        points, with its interval) and verdict: `"agrees"`, `"disagrees"`, `"open"` or
        `"not run"`.
    """
    everything = pd.concat([long, combined(long)])
    rows = [_check(everything, study, claim, resamples) for claim in study.claims]
    return pd.DataFrame(rows, columns=["claim", "on", "measured", "verdict"])


def _check(long: pd.DataFrame, study: Study, claim: Claim, resamples: int) -> tuple[Any, ...]:
    named = {row.name: row.changes for row in study.variants if row.axis == claim.axis}
    pair = named[claim.better], named[claim.worse]
    if not set(pair) <= set(long["method"]):
        return claim.text, claim.score, "", "not run"
    found = differences(long[long["score"] == claim.score], *pair, resamples).iloc[0]
    sign = 1 if higher_is_better(claim.score) else -1
    low, high = sorted((sign * found["low"], sign * found["high"]))
    said = {"better": "agrees", "worse": "disagrees", "open": "open"}[found["verdict"]]
    mean = _signed(sign * found["difference"])
    shown = f"{mean}\u00a0({_signed(low)}\u00a0to\u00a0{_signed(high)})"
    return claim.text, claim.score, shown, said


def axis_words(long: pd.DataFrame, study: Study, axis: str, resamples: int = 1000) -> str:
    """Say in one sentence how an axis's variants differ from its default, in Markdown.

    Args:
        long: `ttame.companion.studies.tables.run_scores`, or some of its percentages.
        study: The study.
        axis: Name of the axis.
        resamples: Number of bootstrap resamples.

    Returns:
        Which variants are better than the default by the `combined` score, which worse, by how many
        percentage points, with the 95 % interval over photos and seeds, and which cannot be told
        from it, largest difference first.

    Raises:
        TTameError: If the study has no such axis, or no record of its default and a variant.
    """
    found = combined(axis_runs(long, study.variants, axis))
    names = list(dict.fromkeys(found["method"]))
    plain = next(row.name for row in study.variants if row.axis == axis and not row.changed)
    if plain not in names or len(names) < 2:
        raise TTameError(
            f"axis {axis!r} has records of {', '.join(names)} alone; a comparison needs {plain!r} "
            "and another row"
        )
    tables = [differences(found, name, plain, resamples).assign(variant=name)
              for name in names if name != plain]  # fmt: skip
    table = pd.concat(tables).sort_values("difference", key=abs, ascending=False, kind="stable")
    parts = []
    for verdict in ("better", "worse"):
        rows = table[table["verdict"] == verdict]
        listed = [
            f"“{name}” ({_signed(mean)}, {_signed(low)} to {_signed(high)})"
            for name, mean, low, high in rows[["variant", "difference", "low", "high"]].to_numpy()
        ]
        if listed:
            parts.append(f"{_listed(listed)} {'are' if len(listed) > 1 else 'is'} **{verdict}**")
    still = [f"“{name}”" for name in table.loc[table["verdict"] == "open", "variant"]]
    if still:
        parts.append(f"**no difference** is shown for {_listed(still)}")
    few, many = int(table["seeds"].min()), int(table["seeds"].max())
    count = f"{few} to {many} seeds" if few < many else f"{many} seed{'s' if many > 1 else ''}"
    return f"Compared with “{plain}”, {'; '.join(parts)}. (IC minus AD, {count} in common.)"


def _signed(value: float) -> str:
    """Write a number with its sign, with a second decimal where one would make it zero."""
    text = f"{value:+.1f}"
    if float(text) == 0:
        text = f"{value:+.2f}"
    return "0.0" if float(text) == 0 else text.replace("-", "\u2212")


def _listed(names: list[str]) -> str:
    """Join names as a sentence does."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
