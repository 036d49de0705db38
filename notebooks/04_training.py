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
# # GPU training
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/04_training.ipynb)
#
# **Shows** how the attention mechanism is trained while the classifier stays frozen, on a GPU where
# there is one and on CPU cores where there is none: the choice of the learning rate, the parts of
# the objective and what held-out photos say of the maps over the steps, the masks as they improve;
# then how near a step comes to the classifier's own speed, and what more devices gain.
#
# **Costs** about two minutes on two CPU cores in profile `quick`, which trains for a few steps
# only. The shipped explainer's full training is shown beside it, from its record.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights, trained on a few photos of
# Imagenette {cite}`imagenette` where that is available, else on some of the sample photos while
# others are held out; the output says which. No labels are used.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
steps = None  # optimiser steps; None: as the profile sets
rates = 36  # learning rates that the finder tries, a step each
photos = None  # photos to train on
held_out = None  # photos for AD and IC
batch = 8  # photos a step where the speed is measured
watched = 3  # training photos whose masks are shown
seed = 0

# %% [markdown]
# ## What is trained on what

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.companion.figures.curves import plot_metrics
from ttame.companion.figures.training import plot_curves, plot_learning_rates
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import (
    provenance_table,
    read_benchmark,
    reference,
    training_curves,
    training_record,
)
from ttame.companion.studies.records import read_runs, study_provenance
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import axis_runs, mean_scores, run_scores
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import per_sample, summary
from ttame.files import shipped
from ttame.images import denormalize, normalize, to_batch
from ttame.loading import explainers
from ttame.masking import apply_mask, normalize_maps, upsample
from ttame.methods import ttame_method
from ttame.plotting import plot_grid
from ttame.records import read_results
from ttame.training.fit import fit, loss_curves, prepare
from ttame.training.learning_rate import find_learning_rate, suggest_rate
from ttame.training.planning import measure_throughput
from ttame.training.recipes import DECODED, ours
from ttame.training.snapshots import MapSnapshots

quiet()
setting = open_profile(profile)
train, held = setting.divide(
    photos or setting.pick(quick=96, imagenette=9469, imagenet=100_000),
    held_out or setting.pick(quick=24, imagenette=200, imagenet=500),
    seed,
)
explainer = ttame.attach(setting.backbone, "deepest", config=DECODED)
trained = sum(p.numel() for p in explainer.mechanism.parameters())
frozen = sum(p.numel() for p in explainer.classifier.parameters())
device = "cuda" if torch.cuda.is_available() else "cpu"
machine = (
    torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} thread(s)"
)
print(f"this page ran on: {device}, {machine}")
print(f"train    {len(train):,} photos of {train.name}")
print(f"held out {len(held):,} photos of {held.name}")
print(f"{explainer.spec.name}: {trained:,} trained parameters, {frozen:,} frozen")

# %%
count = steps or setting.pick(quick=45, imagenette=600, imagenet=20_000)
config = ours(
    steps=count,
    validate_every=max(count // 3, 1),
    precision="bf16-mixed" if device == "cuda" else "32-true",
    batch_size=setting.pick(quick=10, imagenette=20, imagenet=60),
    workers=setting.pick(quick=0, imagenette=1, imagenet=8),
    seed=seed,
)
settings = config.flat() | config.flat()["objective"]
del settings["objective"]
pd.DataFrame({"setting": {key: str(value) for key, value in settings.items()}})

# %% [markdown]
# *The training configuration. The weights of the objective and their meaning are on [the method
# page](../book/method.md); `ttame.training.recipes.published()` gives the papers' settings.*
#
# ## The learning rate
#
# The range test takes one step at each of many rates, from far too low to far too high, and watches
# the loss. A good maximum for the schedule lies where the loss falls, well below the rate at which
# it climbs. `suggest_rate` takes the steepest fall of the smoothed loss, and refuses to answer
# where the loss falls no further than it scatters. It tells where one step gains most, not where a
# whole training ends, so this page goes on with the recipe's rate.

# %%
tested = find_learning_rate(explainer, train, config, lowest=1e-5, highest=1.0, steps=rates)
try:
    print(f"suggested: {suggest_rate(tested):.1e}")
except ttame.TTameError as error:
    print(f"no suggestion: {error}")
rate = config.optimization.learning_rate
print(f"{len(tested)} rates tried; this page goes on with {rate:.1e}, the recipe's")
plot_learning_rates(tested, rate)

# %% [markdown]
# *Loss of one batch at each learning rate (points) and a running average (line), on the photos
# named above, all pixels retained. Single losses scatter, because batches differ.*
#
# ## Training
#
# `fit` runs Lightning {cite}`lightning`; it logs to CSV and TensorBoard and keeps checkpoints. What
# a step sees is a function of seed and step, so a run that was killed and is resumed ends with the
# same weights, and several devices train what one does. A callback keeps the maps of some photos.

# %%
raw = to_batch(train.paths[:watched], explainer.spec)
images = normalize(raw, explainer.spec)
snapshots = MapSnapshots(images, every=max(count // 5, 1))
runs = tempfile.TemporaryDirectory()
folder = Path(runs.name)
after = fit(
    explainer, train, config, folder / "run", validation=held, name="quick",
    callbacks=[snapshots], progress=False,
)  # fmt: skip
batch_size = config.photos.batch_size
print(f"{after.record['steps']} steps of {batch_size} photos: {after.record['minutes']} min")
print(f"best validation score {after.record['best']}")
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
# ## What held-out photos say meanwhile
#
# The loss of a training batch says little about the maps. AD and IC of held-out photos do: `fit`
# measures them every so many steps, can stop where they no longer get better (`patience`), and can
# keep the best weights instead of the last (`keep="best"`).

# %%
measures = {
    f"val/{name} {share}%": f"{name} {share} %" for name in ("AD", "IC") for share in (100, 15)
}
plot_curves(loss_curves(folder / "run"), measures, ylabel="held-out photos, %")

# %% [markdown]
# *AD (lower is better) and IC (higher is better) of the held-out photos named above, at two shares
# of retained pixels, over the few steps of this run.*

# %%
print(f"held-out photos: see the command {record['command']!r}")
plot_curves(training_curves(record), measures, ylabel="held-out photos, %")

# %% [markdown]
# *The same over the whole training of the shipped explainer, from its record.*
#
# ## What was tried
#
# The recipe was found by measuring. Each row below is an explainer, evaluated on the same photos of
# Imagenette's validation split; the last row is the shipped one.

# %%
tried = {
    "cross-entropy, sigmoid masks, ReLU, bn2, rate 1e-3, 1,475 steps": "recipe_cross_entropy.jsonl",
    "relative drop, min-max masks, ReLU, bn2, rate 1e-3, 885 steps": "recipe_drop.jsonl",
    "mean gradients of blocks.6, no ReLU, before any training": "recipe_start.jsonl",
    "from there: relative drop, rate 2e-4, 295 steps": "recipe_free.jsonl",
}
tables = {name: summary(reference(file)) for name, file in tried.items()}
tables["tied rows, rate 5e-5, 295 steps"] = summary(reference("recipe_tied.jsonl"))
tables["three layers, a decoder, trials, photos of many kinds"] = summary(
    reference("recipe_layers.jsonl")
)
tables["shipped: the same on the deepest layer"] = summary(reference("imagenette_val.jsonl"))
pd.concat(tables).droplevel(1).filter(regex="^(AD|IC)|photos").round(1)

# %% [markdown]
# *Means over the photos, percent. The first recipe starts from the head's weights at `bn2`, the
# layer behind the last convolution; more steps moved it between the retained shares without
# lifting all. Training on the relative drop helped at every share but the smallest, where a high
# rate undid what the start knew. The layer before the last convolution, read with its sign, is the
# better start; a short training at a low rate then gains at all shares. All of that left the
# shallow layers idle. The decoder and its saturated values come last; with them, too, the
# deepest layer alone does as well as three ([Feature selection](02_feature_selection.ipynb)).*

# %%
provenance_table(read_results(reference("recipe_free.jsonl"))[0]).style

# %% [markdown]
# *Of the fourth row; its command has the names of that time.*
#
# ### One thing at a time
#
# The recipe for one pass over photos of many kinds, with one thing changed at a time, measured on
# photos of categories that training never shows. All ran on one H100 GPU.

# %%
study = read_study(shipped("studies") / "learning.toml")
made = read_runs(shipped("results") / "learning")
varied = axis_runs(run_scores(made), study.variants, "learning")
mean_scores(varied).round(1)

# %%
Markdown(in_words(paired_differences(varied, "our recipe", resamples=2000), "Our recipe"))

# %% [markdown]
# *AD and IC in percent, means over the photos, and our recipe against each change, photo by photo,
# by 95 % bootstrap intervals, one seed each.* Two changes deserve a second look. Asking that the
# photo without its map loses the class (the *complement*) raises AD and IC where all pixels are
# kept. Training on mosaics of four photos, with one of their classes as the target, is meant to
# make maps follow the class. AD and IC do not show what either does to the map, so here are mosaics
# of photos that training never saw, where the right place is known:

# %%
variants = {"our recipe": "plain", "complement": "complement", "70 % mosaics": "mosaics"}
told = {name: summary(reference(f"recipe_mosaics_{file}.jsonl")) for name, file in variants.items()}
pd.concat(told).droplevel(1)[["energy", "pointing", "photos"]].round(1)

# %% [markdown]
# *The share of the map, scaled to [0, 1], on the photo of the class (`energy`, chance 25 %) and how
# often its maximum lies there, percent.* With the complement a map keeps more of the mosaic that is
# not the class: what it gains in AD it gains by showing more. So it does not ship. Mosaics pull the
# map onto the class and cost a little AD; whoever needs maps that tell classes apart in one photo
# trains with `mosaics = 0.7` in the file given to `ttame train --config`.

# %% [markdown]
# Whether trials of two masks teach more than gradients where only 15 % of the pixels are kept, an
# earlier and shorter study asked, on three layers:

# %%
study = read_study(shipped("studies") / "trials.toml")
tried = axis_runs(run_scores(read_runs(shipped("results") / "trials")), study.variants, "trials")
Markdown(in_words(paired_differences(tried, "our recipe", resamples=2000), "Our recipe"))

# %% [markdown]
# *`ranks by gradients` takes the trials away and gives the share of 15 % to the gradients.*

# %%
studies = ("learning", "trials")
origins = [study_provenance(shipped("results") / name)["provenance"] for name in studies]
pd.concat(origins, axis=1, keys=studies)

# %% [markdown]
#
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
plot_grid(rows, cell=1.5, what="Training photos under their masks as training goes on")

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
# photos, as the samples do, that is what the decoder and the tied rows are for.*

# %% [markdown]
# ## How fast is a step?
#
# No way of training can be faster than the classifier itself: a step needs one of its forward
# passes without gradient and, on the masked photos, one forward and one backward pass to the input.
# That is the floor. Everything else, the mechanism, masks, objective and optimiser, is ours to keep
# small.

# %%
speed = measure_throughput(explainer, config.replace(batch_size=batch), repeats=3)
measured = read_benchmark(reference("throughput.json"), "training")
kept = {
    "classifier": "classifier", "device": "device", "batch": "batch",
    "step_images_per_second": "step", "floor_images_per_second": "floor",
    "ratio": "times the floor", "step_peak_mb": "peak MB",
}  # fmt: skip
rows = pd.DataFrame([{**speed, "device": f"{speed['device']}, now"}, *measured["rows"]])
rows[list(kept)].rename(columns=kept).set_index("classifier").round(2)

# %% [markdown]
# *Photos a second of a step and of the floor, and how many times longer the step takes, in float32
# on CPUs. First row: measured while this page was built, on whatever else the machine did
# meanwhile, with the classifier that this page trains on. The others: from the record below, each
# alone in a process of its own, with random weights, which take the same time. Memory is what the
# whole process holds on a CPU, and what the step allocates on a GPU. The papers' classifiers on a
# GPU have no row until somebody runs `make throughput` on one.*

# %%
provenance_table(measured).style

# %% [markdown]
# ### What a GPU makes of it
#
# Some of the shipped explainers were trained on a lent GPU, up to fifteen trainings side by side:

# %%
on_gpu = {
    name: {
        "steps": record["steps"], "photos a step": record["config"]["batch_size"],
        "minutes": record["minutes"], "hardware": record["hardware"],
    }
    for name in explainers()
    if "NVIDIA" in (record := training_record(name))["hardware"]
}  # fmt: skip
pd.DataFrame.from_dict(on_gpu, orient="index")

# %% [markdown]
# *From the training records: minutes of the whole run, its start included. A step is too small to
# fill such a card, which is why many ran at once; reading photos was the limit.*
#
# ## More devices
#
# Processes share every batch. The batch size counts the photos of all of them, so neither the steps
# nor what a step sees change with their number.
#
# ```console
# $ ttame train --out runs/two --devices 2
# $ ttame train --out runs/paper --profile imagenet --devices 4 --nodes 2 --dry-run
# ```

# %%
scaling = read_benchmark(reference("scaling.json"), "scaling")
labels = {"devices": "devices", "device": "a device is", "backbone": "classifier", "batch": "batch",
          "images_per_second": "photos/s", "speedup": "times the first"}  # fmt: skip
pd.DataFrame(scaling["rows"])[list(labels)].rename(columns=labels).set_index("devices").round(2)

# %% [markdown]
# *Whole training steps, reading photos included, on one process and on several that share the
# batch, from the record below.*

# %%
provenance_table(scaling).style

# %%
runs.cleanup()
