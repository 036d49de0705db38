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
# # Ablations
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/08_ablations.ipynb)
#
# **Shows** what each choice in the mechanism and its training does: variants that differ from the
# default in exactly one thing are trained and measured alike.
#
# **Costs** about two minutes on two CPU cores in profile `quick`. That is far too little training
# to rank the variants; it shows how a study is made and run, and which effects are large enough to
# be seen at once.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights at a reduced input size, trained
# on a few photos of Imagenette {cite}`imagenette` where that is available, else on some of the
# sample photos while others are held out; the output says which.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
steps = None  # optimiser steps a variant; None: as the profile sets
photos = None  # photos to train on
held_out = None  # photos for AD and IC
size = None  # height and width of the input, pixels
learning_rate = 0.005
seed = 0

# %% [markdown]
# ## The study is data
#
# A variant names its axis and the fields it changes; unknown fields and duplicates are refused.
# Rows are compared within their axis. Each axis has one row that changes nothing.

# %%
import tempfile
import time
from pathlib import Path

import ttame
from ttame.ablations import STUDY, Variant, select_axis, study, study_table
from ttame.charts import plot_metrics
from ttame.evaluation import evaluate
from ttame.methods import build, ttame_method
from ttame.profiles import open_profile, quiet
from ttame.recipes import published
from ttame.results import read_results
from ttame.tables import per_sample, summary
from ttame.variants import run_variant

quiet()
variants = study(STUDY)
study_table(variants)

# %%
try:
    Variant("architecture", "typo", attention={"skipp": False})
except ttame.TTameError as error:
    print(error)

# %% [markdown]
# ## One training for all
#
# All variants start from the papers' recipe, with random fusion weights, on the same photos in the
# same order; only the number of steps, the optimiser and its rate are made for a short run.

# %%
setting = open_profile(profile)
size = size or setting.pick(quick=128, imagenette=224, imagenet=224)
train, held = setting.divide(
    photos or setting.pick(quick=128, imagenette=9469, imagenet=100_000),
    held_out or setting.pick(quick=32, imagenette=500, imagenet=2000),
    seed,
)
config = published(
    optimizer="adamw",
    learning_rate=learning_rate,
    steps=steps or setting.pick(quick=20, imagenette=600, imagenet=20_000),
    batch_size=setting.pick(quick=12, imagenette=32, imagenet=32),
    workers=setting.pick(quick=0, imagenette=1, imagenet=8),
    seed=seed,
)
print(f"train    {len(train):,} photos of {train.name}, {size} × {size} pixels")
print(f"held out {len(held):,} photos of {held.name}")
print(f"each variant: {config.steps} steps of {config.batch_size} photos, seed {seed}")

# %%
runs = tempfile.TemporaryDirectory()
folder, trained = Path(runs.name), {}
for variant in variants:
    if variant.changes not in trained:  # axes share the row that changes nothing
        start, run = time.perf_counter(), folder / str(len(trained))
        trained[variant.changes] = run_variant(
            variant, setting.backbone, train, config, run, size=size
        )
        print(f"{time.perf_counter() - start:5.1f} s  {variant.axis}: {variant.name}")

# %% [markdown]
# ## Measured on held-out photos

# %%
full = trained["nothing"]
methods = {changes: ttame_method(item) for changes, item in trained.items()}
methods |= {name: build(name, full) for name in ("Grad-CAM", "random")}
out = evaluate(full, held, folder / "study.jsonl", methods=methods, seed=seed)
_, records = read_results(out)
scores, long = summary(out), per_sample(records)
print(f"{len(held)} photos of {held.name} at {size} × {size} pixels, classifier {full.spec.name}")
scores.loc[["Grad-CAM", "random"]].filter(regex="AD|IC|photos").round(1)

# %% [markdown]
# *For orientation: Grad-CAM {cite}`gradcam` and a random map on the same photos at the same size.
# All scores are lower than at the classifier's own input size.*
#
# ### Architecture

# %%
shown = scores.filter(regex="AD|IC|photos").reset_index()
select_axis(shown, variants, "architecture").set_index("method").round(1)

# %%
plot_metrics(select_axis(long, variants, "architecture"))

# %% [markdown]
# *AD (lower is better) and IC of each architecture; bars are means over the held-out photos, lines
# 95 % intervals. The intervals are wide because photos are few, and they do not include what
# another seed would change.*
#
# ### Layers

# %%
select_axis(shown, variants, "layers").set_index("method").round(1)

# %%
plot_metrics(select_axis(long, variants, "layers"))

# %% [markdown]
# *The mechanism on the deepest layers only: one, two or all three; otherwise as above.*
#
# ### Terms of the objective

# %%
select_axis(shown, variants, "loss terms").set_index("method").round(1)

# %%
plot_metrics(select_axis(long, variants, "loss terms"))

# %% [markdown]
# *The objective without some of its terms; otherwise as above. Without the area term nothing asks
# for a small mask, so AD with all pixels retained is no fair judge of those rows.*
#
# ### Where the fusion starts
#
# The published mechanism starts from random weights. The fusion can also start from the
# classifier itself: the mean gradients of its logits hold one direction for each class in the
# channels of the last feature map.

# %%
select_axis(shown, variants, "start").set_index("method").round(1)

# %%
plot_metrics(select_axis(long, variants, "start"))

# %% [markdown]
# *The two starts, after the same few steps; otherwise as above. A free start takes many more steps
# to come as far, which is why the shipped explainer begins at the classifier's gradients.*
#
# ## How far to trust this
#
# Every variant had one seed and the few steps printed above, and an ablation says something about
# a component only where training has converged. The larger profiles run this same page at scale,
# and `Variant` rows of your own are added to the study in one line each.

# %%
runs.cleanup()
