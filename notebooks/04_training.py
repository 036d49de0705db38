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
# # Training
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/04_training.ipynb)
#
# **Shows** how the attention mechanism is trained while the classifier stays frozen: the choice of
# the learning rate, the parts of the objective over the steps, the masks as they improve, and what
# that does to held-out photos.
#
# **Costs** about a minute or two on two CPU cores in profile `quick`, which trains for a few steps
# only. The shipped explainer's full training is shown beside it, from its record.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights, trained on a few photos of
# Imagenette {cite}`imagenette` where that is available, else on some of the sample photos while
# others are held out; the output says which. No labels are used.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
steps = None  # optimiser steps; None: as the profile sets
rates = 36  # learning rates that the finder tries, a step each
photos = None  # photos to train on
held_out = None  # photos for AD and IC
watched = 3  # training photos whose masks are shown
seed = 0

# %% [markdown]
# ## What is trained on what

# %%
import tempfile
from pathlib import Path

import pandas as pd

import ttame
from ttame.charts import plot_curves, plot_learning_rates, plot_metrics
from ttame.evaluation import evaluate
from ttame.images import denormalize, normalize, to_batch
from ttame.learning_rate import find_learning_rate
from ttame.masking import apply_mask, normalize_maps, upsample
from ttame.methods import ttame_method
from ttame.plotting import plot_grid
from ttame.profiles import open_profile, quiet
from ttame.recipes import SIGNED, TrainingConfig
from ttame.references import provenance_table, reference, training_curves, training_record
from ttame.results import read_results
from ttame.snapshots import MapSnapshots
from ttame.tables import per_sample, summary
from ttame.training import fit, loss_curves, prepare

quiet()
setting = open_profile(profile)
train, held = setting.divide(
    photos or setting.pick(quick=96, imagenette=9469, imagenet=100_000),
    held_out or setting.pick(quick=24, imagenette=200, imagenet=500),
    seed,
)
explainer = ttame.attach(setting.backbone, config=SIGNED)
trained = sum(p.numel() for p in explainer.mechanism.parameters())
frozen = sum(p.numel() for p in explainer.classifier.parameters())
print(f"train    {len(train):,} photos of {train.name}")
print(f"held out {len(held):,} photos of {held.name}")
print(f"{explainer.spec.name}: {trained:,} trained parameters, {frozen:,} frozen")

# %%
config = TrainingConfig(
    steps=steps or setting.pick(quick=45, imagenette=600, imagenet=20_000),
    batch_size=setting.pick(quick=8, imagenette=32, imagenet=32),
    workers=setting.pick(quick=0, imagenette=1, imagenet=8),
    seed=seed,
)
settings = {**vars(config), **vars(config.objective)}
del settings["objective"]
pd.DataFrame({"setting": {key: str(value) for key, value in settings.items()}})

# %% [markdown]
# *The training configuration. The weights of the objective and their meaning are on [the method
# page](../book/method.md); `ttame.recipes.published()` gives the papers' settings.*
#
# ## The learning rate
#
# The range test takes one step at each of many rates, from far too low to far too high, and
# watches the loss. A good maximum for the schedule lies where the loss falls, well below the rate
# at which it climbs.

# %%
tested = find_learning_rate(explainer, train, config, lowest=1e-5, highest=1.0, steps=rates)
lowest = tested.loc[tested["smoothed"].iloc[rates // 6 :].idxmin(), "rate"]
print(f"{len(tested)} rates tried; the smoothed loss is lowest at {lowest:.1e}")
print(f"this page goes on with {config.learning_rate:.1e}, the recipe's")
plot_learning_rates(tested, config.learning_rate)

# %% [markdown]
# *Loss of one batch at each learning rate (points) and a running average (line), on the photos
# named above. Single losses scatter: batches differ, and the training mask retains another share
# of pixels from step to step. The classifier's own gradients give this mechanism a good start, so
# there is little to fall and much to climb.*
#
# ## Training
#
# `fit` runs Lightning {cite}`lightning`; it logs to CSV and TensorBoard, keeps checkpoints and can
# resume. A callback keeps the maps of some of the training photos.

# %%
raw = to_batch(train.paths[:watched], explainer.spec)
images = normalize(raw, explainer.spec)
snapshots = MapSnapshots(images, every=max(config.steps // 3, 1))
runs = tempfile.TemporaryDirectory()
folder = Path(runs.name)
after = fit(
    explainer, train, config, folder / "run", name="quick", callbacks=[snapshots], progress=False
)
print(f"{after.record['steps']} steps of {config.batch_size} photos: {after.record['minutes']} min")
print(*sorted(item.name for item in (folder / "run").iterdir()), sep="  ")

# %% [markdown]
# ## The parts of the objective

# %%
parts = {
    "train/total": "total",
    "train/drop": "relative drop",
    "train/area": "area",
    "train/variation": "variation",
}
plot_curves(loss_curves(folder / "run"), parts, ylabel="loss", window=3)

# %% [markdown]
# *The objective and its unweighted parts in the run just made, with a running mean. So few steps
# show noise more than progress.*
#
# The shipped explainer was trained longer; its record holds the same curves.

# %%
record = training_record(setting.backbone)
plot_curves(training_curves(record), parts, ylabel="loss", window=15)

# %% [markdown]
# *The same parts over the whole training of the shipped explainer. The drop asks for the
# classifier's answer, area makes the mask small, variation makes it smooth: they pull against each
# other. Points are single batches; they lie in bands because the training mask retains another
# share of pixels from step to step. A drop below zero means that masked photos are more certain
# than whole ones.*

# %%
provenance_table(record).style

# %% [markdown]
# ## What was tried
#
# The default recipe was found by measuring. Each row below is an explainer, evaluated on the same
# photos of Imagenette's validation split; the last row is the shipped one.

# %%
tried = {
    "cross-entropy, sigmoid masks, ReLU, bn2, rate 1e-3, 1,475 steps": "recipe_cross_entropy.jsonl",
    "relative drop, min-max masks, ReLU, bn2, rate 1e-3, 885 steps": "recipe_drop.jsonl",
    "mean gradients of blocks.6, no ReLU, before any training": "recipe_start.jsonl",
    "from there: relative drop, rate 2e-4, 295 steps": "recipe_shipped.jsonl",
}
pd.concat({name: summary(reference(file)) for name, file in tried.items()}).droplevel(1).filter(
    regex="AD|IC|photos"
).round(1)

# %% [markdown]
# *Means over the photos, percent. The first recipe starts from the head's weights at `bn2`, the
# layer behind the last convolution; more steps moved it between the retained shares without
# lifting all. Training on the relative drop helped at every share but the smallest, where a high
# rate undid what the start knew. The layer before the last convolution, read with its sign, is the
# better start; a short training at a low rate then gains at all shares.*

# %%
provenance_table(read_results(reference("recipe_shipped.jsonl"))[0]).style

# %% [markdown]
# ## Masks improving

# %%
stages = {f"step {step}": maps for step, maps in zip(snapshots.steps, snapshots.maps, strict=True)}
stages["shipped"] = ttame.load(setting.backbone).explain(raw, top_k=1).maps
spec, rows = explainer.spec, [[("photo", image)] for image in raw]
for stage, maps in stages.items():
    masks = upsample(normalize_maps(maps), raw.shape[-2:])
    masked = denormalize(apply_mask(images, masks, spec.space, spec.mean, spec.std), spec)
    for row, mask, picture in zip(rows, masks, masked, strict=True):
        row.append((f"{stage}\n{mask.mean():.0%} shown", picture))
plot_grid(rows)

# %% [markdown]
# *Some of the training photos under their training masks, the map of the predicted class scaled to
# [0, 1]: at the start, as the steps of this run went by, and by the shipped explainer. Titles give
# the mean of the mask, which the area term pushes down.*
#
# ## Held-out photos, before and after

# %%
before = prepare(explainer, train, config).eval()
methods = {
    "before training": ttame_method(before),
    "after this run": ttame_method(after),
    "shipped": ttame_method(ttame.load(setting.backbone)),
}
out = evaluate(after, held, folder / "held_out.jsonl", methods=methods, seed=seed)
header, records = read_results(out)
print(f"{len(held)} photos of {held.name}, classifier {explainer.spec.name}, seed {seed}")
summary(out).filter(regex="AD|IC|photos").round(1)

# %%
plot_metrics(per_sample(records))

# %% [markdown]
# *AD and IC of the same held-out photos by the mechanism as it starts, after the run on this page,
# and as shipped. Bars are means, lines 95 % intervals over photos. Where they overlap, this sample
# cannot tell the three apart. Where the held-out photos show other classes than the training
# photos, as the samples do, training has changed the branches for them but not the fusion.*

# %%
runs.cleanup()
