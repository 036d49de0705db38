# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where maps mislead
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/12_failure_cases.ipynb)
#
# **Shows** photos on which explanation maps fail, picked by their scores and not by their looks:
# where T-TAME's map loses the answer, where Grad-CAM's keeps it better, where the prediction is
# wrong and the map convincing, where two classes get one map, and a map that scores well and says
# nothing.
#
# **Costs** about a minute on one CPU core; nothing is trained or downloaded.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights and the shipped explainer. Where
# Imagenette {cite}`imagenette` is available, photos of its validation split are picked by the
# committed reference results; else the sample photos are measured first. The output says which.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
shown = 4  # photos of each kind of failure
photos = None  # photos whose maps of two classes are compared; None: as the profile sets
percentage = 50  # retained pixels by which photos are picked: 100, 50 or 15
seed = 0

# %% [markdown]
# ## The photos and their scores
#
# Every photo was masked by its map, half of its pixels retained unless the parameters say
# otherwise, and shown to the classifier again: $p$ is the probability of the predicted class on
# the whole photo, $p'$ on the masked one ([definitions](../book/method.md)).

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

import ttame
from ttame.companion.failures import (
    beaten_by,
    class_sensitivity,
    kept_mistakes,
    largest_losses,
    read_rows,
)
from ttame.companion.figures.masked import plot_masked
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, reference
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import read_together, summary
from ttame.methods import build
from ttame.records import read_results

setting = open_profile(profile)
explainer = ttame.load(setting.backbone)
compared = ["T-TAME", "Grad-CAM", "Fake-CAM"]
found = setting.photos("val")
committed = [f"imagenette_val{kind}.jsonl" for kind in ("", "_cam", "_other")]
headers, records = read_together(*[reference(name) for name in committed])
config = headers[0]["config"]
if (found.name, explainer.spec.name) == (config["data"], config["backbone"]):
    found = found.select([found.names.index(name) for name in records["photo"].unique()])
    source = "the committed reference results"
else:
    found = found.sample(setting.pick(quick=19, imagenette=500, imagenet=500), seed)
    with tempfile.TemporaryDirectory() as folder:
        measured = evaluate(explainer, found, Path(folder) / "live.jsonl", methods=compared)
        header, records = read_results(measured)
    headers, source = [header], "a live measurement"
records = records[records["method"].isin(compared)]
print(f"{len(found)} photos of {found.name}, classifier {explainer.spec.name}")
print(f"picked by {source}, {percentage} % of pixels retained")
summary(records).filter(regex="AD|IC|photos").round(1)

# %% [markdown]
# *Means over the photos named above, percent. Below are the photos in the tails that such means
# hide.*

# %%
provenance_table(headers[0]).style

# %% [markdown]
# ## Where the map loses the answer
#
# The photos on which masking by T-TAME's map costs the most probability, $p - p'$.

# %%
losses = largest_losses(records, "T-TAME", percentage)
worst = losses.head(shown)
print(
    f"more than half of p lost on {int((losses['loss'] > losses['probability'] / 2).sum())} of "
    f"{len(losses)} photos; nothing lost on {int((losses['loss'] <= 0).sum())}"
)
images, targets = read_rows(explainer, found, worst)
plot_masked(
    explainer,
    images,
    targets,
    {"T-TAME": build("T-TAME", explainer)(images, targets)},
    (100, 50, 15),
)

# %% [markdown]
# *The photos of the largest loss, a row each: the photo with the predicted class and $p$, its map,
# and the masked photo at three shares with $p'$. A third line names what the classifier sees
# instead. What to see: most of these maps lie on the object, or on part of it; what fails is
# the claim that this part is enough for the answer.*

# %%
worst.rename_axis("photo").round(3)

# %% [markdown]
# ## Where Grad-CAM does better
#
# The photos on which the part that Grad-CAM {cite}`gradcam` shows keeps more of the answer than the
# part that T-TAME shows.

# %%
against = beaten_by(records, "T-TAME", "Grad-CAM", percentage)
print(
    f"Grad-CAM keeps more on {int((against['gap'] > 0).sum())} of {len(against)} photos, more by "
    f"0.2 or above on {int((against['gap'] >= 0.2).sum())}; T-TAME keeps more by 0.2 or above on "
    f"{int((against['gap'] <= -0.2).sum())}"
)
lost = against.head(shown)
images, targets = read_rows(explainer, found, lost)
maps = {name: build(name, explainer)(images, targets) for name in ("T-TAME", "Grad-CAM")}
plot_masked(explainer, images, targets, maps, (percentage,))

# %% [markdown]
# *The photos of the largest advantage of Grad-CAM, with both maps and what is left behind each.
# What to see: maps of much the same place can keep very different shares of the answer, because a
# little more or less of the object, or of what surrounds it, decides.*
#
# ## Wrong predictions, convincing maps
#
# A map explains the prediction, right or wrong. These are the wrong ones whose masked photo keeps
# the wrong class best.

# %%
if found.labels is None:
    print(f"{found.name} has no labels, so that no prediction can be called wrong")
    wrong = None
else:
    labels = dict(zip(found.names, found.labels, strict=True))
    mistakes = kept_mistakes(records, labels, "T-TAME", percentage)
    print(f"{len(mistakes)} of {len(found)} predictions are not the photo's label")
    wrong = mistakes.head(shown)

# %%
if wrong is not None:
    images, targets = read_rows(explainer, found, wrong)
    notes = [f"label: {explainer.classes[label].split(',')[0]}" for label in wrong["label"]]
    maps = {"T-TAME": build("T-TAME", explainer)(images, targets)}
    picture = plot_masked(explainer, images, targets, maps, (percentage,), notes)
picture if wrong is not None else None

# %% [markdown]
# *Wrong predictions that survive masking: the photo with the predicted class, its probability and
# the photo's label, the map of the predicted class, and the masked photo. What to see: nothing in
# the map says that the prediction is wrong. Sometimes the label is the poorer name, for a photo
# may show more than one thing and has one label only.*
#
# ## Two classes, one map
#
# The map of the most probable class and that of the second should differ where the classifier
# tells the two apart. Their rank correlation says how much they do.

# %%
count = photos if photos is not None else setting.pick(quick=100, imagenette=500, imagenet=500)
looked = found.sample(min(count, len(found)), seed)
explanation = explainer.explain(looked.paths, top_k=2, progress=False)
alike = pd.Series(class_sensitivity(explanation.maps), index=looked.names)
print(f"{len(looked)} photos of {looked.name}: correlation of the two maps")
alike.describe(percentiles=[0.1, 0.5, 0.9]).drop("count").rename("correlation").to_frame().T.round(
    2
)

# %% [markdown]
# *How alike the maps of the two most probable classes are, over the photos counted above.*

# %%
order = alike.reset_index(drop=True).sort_values(ascending=False, kind="stable").index
pairs = [*order[:shown], order[-1]]
replace(
    explanation,
    logits=explanation.logits[pairs],
    targets=explanation.targets[pairs],
    maps=explanation.maps[pairs],
    images=explanation.images[pairs],
).plot()

# %% [markdown]
# *The photos with the most alike maps, and in the last row the one with the least alike, for
# contrast. What to see: the map answers where the object is, hardly why it is the first class and
# not the second. Such a map must not be read as the reason for one class against another; the
# difference of two raw maps is the better picture for that
# ([the quickstart](01_quickstart.ipynb)).*
#
# ## A perfect score that explains nothing
#
# Fake-CAM {cite}`opticam` is one everywhere but at one pixel. With all pixels retained it hides
# next to nothing.

# %%
scores = summary(records).loc[compared, ["AD 100%", "IC 100%", "AD 50%", "AD 15%", "photos"]]
scores.round(1)

# %% [markdown]
# *AD (lower is better) and IC (higher is better), percent, means over the photos counted there.
# With all pixels retained Fake-CAM loses next to nothing, without a look at the photo; when it has
# to choose pixels, it chooses by lot.*

# %%
images, targets = read_rows(explainer, found, worst[:2])
maps = {name: build(name, explainer)(images, targets) for name in ("Fake-CAM", "T-TAME")}
plot_masked(explainer, images, targets, maps, (100, 15))

# %% [markdown]
# *Fake-CAM and T-TAME on the first two photos of this page. What to see: the whole photo behind
# a map that says nothing, with its probability intact; and the same map at 15 %.*
#
# What follows from all this is in [the limitations](../book/limitations.md).
