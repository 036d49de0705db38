"""The claims of the book's front page: in words, with numbers read from committed results."""

from __future__ import annotations

import pandas as pd

from ttame.companion.shipped import reference
from ttame.evaluation.tables import scores
from ttame.records import read_results

_MOSAICS = "every_metric/mosaics_imagenette.jsonl"
_PUBLISHED = "T-TAME (published)"


def claims() -> str:
    """Write three claims as Markdown, each with its numbers and a link to its proof.

    The words are fixed, and true of the results that ship: a test holds every comparison against
    them. The numbers are read anew.

    Raises:
        TTameError: If this installation lacks the results.
    """
    own, cams, kinds = _records("imagenette_val"), _records("imagenette_val_cam"), _kinds()
    slow = {name: _passes(_records(file), name) for name, file in
            (("Score-CAM", "imagenette_val_score"), ("RISE", "imagenette_val_rise"))}  # fmt: skip
    kept = [_mean(own, "T-TAME", "AD 15%"), _mean(cams, "Grad-CAM", "AD 15%")]
    unseen = [_mean(kinds, name, "AD 15%") for name in ("T-TAME", "Grad-CAM")]
    mosaics = read_results(reference(_MOSAICS))[1]
    right = {name: _mean(mosaics, name, "grid pointing")
             for name in (_PUBLISHED, "Grad-CAM", "T-TAME")}  # fmt: skip
    lines = [
        f"**One pass.** A map takes {_passes(own, 'T-TAME'):.0f} forward pass of the classifier, "
        f"the one that makes the prediction. Score-CAM takes {slow['Score-CAM']:.0f}, RISE "
        f"{slow['RISE']:.0f}. [Proof: counted passes](06_evaluation.ipynb).",
        "**It keeps what the classifier needs.** With only the best 15 % of the pixels left, the "
        f"class loses {kept[0]:.1f} % of its probability by our map, {kept[1]:.1f} % by "
        f"Grad-CAM's ({own['photo'].nunique()} photos of Imagenette); {unseen[0]:.1f} and "
        f"{unseen[1]:.1f} % on kinds of things that training never showed. By the order of its "
        "pixels (ROAD, insertion, deletion), no class activation map is ahead of it on either. "
        "[Proof: paired differences](06_evaluation.ipynb).",
        "**Training decides what a map is good at.** Of four photos side by side, the mechanism "
        f"trained as published puts {right[_PUBLISHED]:.0f} % of its positive values into the "
        f"one of the asked class; Grad-CAM {right['Grad-CAM']:.0f} %, and our own recipe, which "
        f"trains for masks, only {right['T-TAME']:.0f} %. No map is best at everything. "
        "[Proof: mosaics](https://github.com/ttame-companion/ttame/blob/main/data/results/"
        "every_metric/README.md).",
    ]
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


def _records(name: str) -> pd.DataFrame:
    return read_results(reference(f"{name}.jsonl"))[1]


def _kinds() -> pd.DataFrame:
    return pd.concat([_records("kinds_val"), _records("kinds_val_cam")], ignore_index=True)


def _mean(records: pd.DataFrame, method: str, score: str) -> float:
    found = scores(records[records["method"] == method])
    return float(found.loc[found["score"] == score, "value"].mean())


def _passes(records: pd.DataFrame, method: str) -> float:
    rows = records[records["method"] == method]
    return float((rows["forward"] + rows["backward"]).mean())
