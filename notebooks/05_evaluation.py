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
# # Evaluation
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/05_evaluation.ipynb)
#
# **Shows** how explanation maps are scored: a live evaluation of several methods on the same
# photos, beside the committed reference results, and what these scores cannot see.
#
# **Costs** about a minute on two CPU cores in profile `quick`; nothing is downloaded.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights and the shipped explainer, on a
# few photos of Imagenette's validation split {cite}`imagenette` where that is available, else on
# the sample photos; the output says which. The reference results come from a committed file.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
photos = None  # how many; None: as the profile sets
shown = 5  # photos in the picture
seed = 0

# %% [markdown]
# ## What is measured
#
# Two scores compare $p$, the probability of the predicted class on the whole photo, with $p'$,
# that on the photo masked by its explanation map, of which only the top share of pixels is
# retained.
#
# - **Average Drop** (AD, lower is better): by how much of itself the probability falls, where it
#   falls.
# - **Increase in Confidence** (IC, higher is better): the share of photos for which it rises.
#
# [The method page](../book/method.md) gives the formulas. Every map is scaled for its photo alone,
# exactly the stated share of pixels is retained, and ties are broken by a seeded shuffle.
#
# ## A live evaluation

# %%
import tempfile
from pathlib import Path

import torch

import ttame
from ttame.charts import plot_drops, plot_metrics, plot_probabilities, plot_road
from ttame.comparison import paired_differences
from ttame.evaluation import evaluate, per_sample, road_curves, summary
from ttame.images import normalize, to_batch
from ttame.methods import DEFAULT_METHODS, build
from ttame.plotting import plot_methods
from ttame.profiles import open_profile
from ttame.references import provenance_table, reference
from ttame.results import read_results

setting = open_profile(profile)
explainer = ttame.load(setting.backbone)
count = photos or setting.pick(quick=24, imagenette=500, imagenet=2000)
measured = setting.photos("val").sample(count, seed)
print(f"{len(measured)} photos of {measured.name}, seed {seed}")
print(f"classifier {explainer.spec.name}, masking space {explainer.spec.space!r}")

# %%
blind = ["centre Gaussian", "Fake-CAM"]  # for the last section
runs = tempfile.TemporaryDirectory()
out = evaluate(
    explainer,
    measured,
    Path(runs.name) / "live.jsonl",
    methods=[*DEFAULT_METHODS, *blind],
    seed=seed,
)
header, records = read_results(out)
live = summary(out)
live.drop(index=blind).round(1)

# %% [markdown]
# *Means over the photos, in percent. `degenerate` counts maps that rank nothing (constant, or not
# finite); `ms` is the median time of making a map for one photo, in batches, on this machine;
# `forward` and `backward` count the passes of the classifier that it takes. The random and the
# all-ones map look at nothing: they say what a score is worth.*

# %%
long = per_sample(records)
compared = long[long["method"].isin(DEFAULT_METHODS)]
plot_metrics(compared)

# %% [markdown]
# *AD and IC on the photos counted above; bars are means, lines 95 % intervals over photos. On so
# few photos the intervals are wide, and neighbours must not be ranked by them.*
#
# Mind the data: the shipped explainer was trained on photos of Imagenette's classes, so photos of
# other things, such as the samples, test it further from home.
#
# ## The reference results
#
# The same evaluation on many photos, committed with its command and provenance.

# %%
committed = reference("imagenette_val.jsonl")
reference_header, reference_records = read_results(committed)
summary(committed).round(1)

# %%
provenance_table(reference_header).style

# %%
plot_metrics(per_sample(reference_records))

# %% [markdown]
# *AD and IC of the reference results; the table above says on which photos, with which commit and
# when.*
#
# ## Where T-TAME leads, and where it does not
#
# All methods saw the same photos, so they are compared photo by photo.

# %%
paired_differences(per_sample(reference_records)).round(3)

# %% [markdown]
# *T-TAME minus each other method, in percentage points: below zero is better for AD, above zero
# for IC. `low` and `high` bound the 95 % bootstrap interval over photos; where it holds zero,
# these photos do not tell the two apart. `p` is Wilcoxon's signed-rank test, not corrected for the
# number of rows.*
#
# ## Degradation
#
# ROAD {cite}`road` removes pixels in the map's order and fills the holes from what is left around
# them. With the most relevant pixels removed first, a good map makes the classifier lose its
# answer early; with the least relevant first, late.

# %%
degraded = reference("imagenette_val_road.jsonl")
road_header, road_records = read_results(degraded)
summary(degraded)[["ROAD MoRF", "ROAD LeRF", "photos", "forward", "backward", "ms"]].round(1)

# %%
plot_road(road_curves(road_records))

# %% [markdown]
# *Share of photos that keep their class while pixels are removed and imputed, with 95 % intervals
# over photos. The table gives the areas under these curves, in percent; fewer photos than above,
# since every photo is imputed and classified fourteen times a method.*

# %%
provenance_table(road_header).style

# %% [markdown]
# ## Photos and methods

# %%
raw = to_batch(measured.paths[:shown], explainer.spec)
images = normalize(raw, explainer.spec)
with torch.inference_mode():
    probability, target = explainer.classifier(images).softmax(dim=1).max(dim=1)
maps = {name: build(name, explainer)(images, target.clone()) for name in DEFAULT_METHODS}
captions = [
    f"{explainer.classes[index].split(',')[0]}\n{value:.1%}"
    for index, value in zip(target.tolist(), probability.tolist(), strict=True)
]
plot_methods(raw, maps, captions)

# %% [markdown]
# *The first photos of the live evaluation in rows, with the predicted class and its probability;
# in columns the map of each method for that class.*
#
# ## Photo by photo
#
# A mean hides how a method fails. Every record holds the values of one photo.

# %%
main = records[records["method"].isin(DEFAULT_METHODS)]
plot_probabilities(main, 50)

# %% [markdown]
# *Probability of the predicted class on the whole photo and on the masked one, half of the pixels
# retained; a point is a photo of the live evaluation. Points above the line count towards IC,
# points below it towards AD.*

# %%
plot_drops(per_sample(reference_records))

# %% [markdown]
# *Distribution of the drop over the photos of the reference results: a curve gives the share of
# photos whose probability drops by at most that much, so that higher is better. A good method
# lifts the left end, where the answer is kept whole; means are moved most by the right end, where
# it is lost.*
#
# ## What AD and IC cannot see
#
# Both reward a mask that hides little. The all-ones map hides nothing and so never drops anything
# with all pixels retained. Fake-CAM {cite}`opticam` is ones but for one pixel: it explains nothing
# and still gets a near-perfect AD there, and an IC like the toss of a coin. A Gaussian about the
# centre knows nothing of the photo but the photographer's habit.

# %%
live.loc[["T-TAME", "Grad-CAM", "all ones", "random", *blind]].round(1)

# %% [markdown]
# *The same live evaluation, with maps that do not look at the photo. Retaining few pixels exposes
# the first two, since a constant map has to pick its pixels by lot; the Gaussian survives that as
# well.*
#
# So read the scores together, at all shares, and beside such maps; [the
# limitations](../book/limitations.md) say more. In the live run, this is how often each of them
# "beats" T-TAME with all pixels retained:

# %%
wide = long[(long["metric"] == "AD") & (long["percentage"] == 100)].pivot_table(
    index="photo", columns="method", values="value"
)
for name in ("all ones", "random", *blind):
    better = int((wide[name] < wide["T-TAME"]).sum())
    print(f"{name}: a smaller drop on {better} of {len(wide)} photos")
runs.cleanup()
