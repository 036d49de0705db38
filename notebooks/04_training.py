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
# **You will learn**
#
# - what a whole training on one GPU looks like, from its record: the objective, its parts, and what
#   held-out photos say meanwhile;
# - how to train a mechanism yourself, and watch its masks form;
# - what a training step costs in time and memory, on CPU cores, on one GPU and on several;
# - how our recipe was found, one change at a time.
#
# **It costs** about 2 minutes and 2 GB of memory on one CPU core; nothing is downloaded. The live
# training of this chapter uses a GPU where there is one.
#
# **Model and photos.** An EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights. The
# recorded trainings saw 13,684 photos of many kinds; the live one sees twelve sample photos and is
# measured on six others. No labels are used.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
steps = None  # optimiser steps of the live training; None: as the profile sets
photos = None  # photos to train on
held_out = None  # photos for AD and IC
watched = 3  # held-out photos whose masks are shown
seed = 0

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.classifiers.classes import short_name
from ttame.companion.figures.budgets import plot_budgets
from ttame.companion.figures.curves import plot_metrics
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.studies import plot_axis
from ttame.companion.figures.training import plot_bars, plot_curves, plot_learning_rates
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
from ttame.companion.studies.tables import axis_runs, differences, run_scores
from ttame.evaluation.comparison import in_short, paired_differences
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import per_sample, scores, summary
from ttame.files import shipped
from ttame.images import normalize, to_batch
from ttame.masking import normalize_maps
from ttame.methods import ttame_method
from ttame.plotting import plot_grid
from ttame.records import read_results
from ttame.training.fit import fit, loss_curves, prepare
from ttame.training.learning_rate import find_learning_rate
from ttame.training.planning import plan_training
from ttame.training.recipes import ours
from ttame.training.snapshots import MapSnapshots

quiet()
setting = open_profile(profile)

# %% [markdown]
# ## A whole run, recorded
#
# The mechanism learns from one question: does the classifier keep its answer when it sees only what
# the {term}`mask <Mask>` lets through? Every training step asks the frozen classifier twice. The
# first pass gives its answer and the {term}`feature maps <Feature map>`, from which the mechanism
# makes a mask; the second pass sees the masked photo. The objective adds up three wishes: the answer
# stays (*cross-entropy*), the mask is small (*area*) and smooth (*variation*).

# %% tags=["hide-input"]
record = training_record("tf_efficientnet_lite0_published_tied")
curves = training_curves(record)
parts = {
    "train/total": "objective",
    "train/cross_entropy": "cross-entropy",
    "train/area": "area",
}
plot_curves(curves, parts, ylabel="loss", window=21)

# %% [markdown]
# *The objective of a run and two of its parts, before their weights. Points are single batches,
# the line is a running mean.*

# %% tags=["remove-input"]
logged = curves[list(parts)].dropna()
fifth = len(logged) // 5
early, late = logged.head(fifth).mean(), logged.tail(fifth).mean()
pace = record["steps"] * record["config"]["batch_size"] / record["training_seconds"]
Markdown(
    f"This is the papers' objective with {{term}}`tied rows`, from a random start: "
    f"{record['steps']:,} steps of {record['config']['batch_size']} photos in "
    f"**{record['minutes']:.0f} minutes** on one {record['hardware'].removeprefix('1 x ')}, "
    f"{pace:.0f} photos a second. From the first fifth of the steps to the last, the objective goes "
    f"from {early['train/total']:.1f} to {late['train/total']:.1f}: masks shrink (area "
    f"{early['train/area']:.2f} to {late['train/area']:.2f}), and still the classifier recognises "
    f"more behind them (cross-entropy {early['train/cross_entropy']:.2f} to "
    f"{late['train/cross_entropy']:.2f})."
)

# %% [markdown]
# The loss of a training batch says little about maps of photos that training never saw. So `fit`
# measures held-out photos every so many steps, by {term}`Average Drop` (AD, lower is better) and
# {term}`Increase in Confidence` (IC, higher is better).

# %% tags=["hide-input"]
measures = {f"val/AD {share}%": f"AD at {share}\u00a0%" for share in (100, 50, 15)}
plot_curves(curves, measures, ylabel="Average Drop, %")

# %% [markdown]
# *Average Drop of 100 held-out photos of other kinds, when 100, 50 and 15 % of the pixels are kept.*

# %% tags=["remove-input"]
own = training_record("tf_efficientnet_lite0")
measured, beside = (training_curves(found)[list(measures)].dropna() for found in (record, own))
first, last, start = measured.iloc[0], measured.iloc[-1], beside.iloc[0]
begun = training_curves(own).loc[beside.index[0], "step"] + 1
Markdown(
    "Between the first measurement and the last, AD goes "
    + ", ".join(
        f"from {first[key]:.0f} to {last[key]:.0f}\u00a0% at {key.split()[1][:-1]}\u00a0%"
        for key in measures
    )
    + ".\n\nT-TAME (our recipe) does not start at random: its rows begin as the classifier's own "
    "gradients, and its mask is scaled to its own range. So it starts where the run above has not "
    f"arrived: on the same photos, its AD is {', '.join(f'{start[key]:.0f}' for key in measures)}\u00a0% "
    f"at its first measurement, step {begun:.0f}, and "
    f"{', '.join(f'{beside.iloc[-1][key]:.0f}' for key in measures)}\u00a0% at its last."
)

# %% [markdown]
# ### How much training is enough
#
# Our recipe was trained four times on two CPU cores, each time for longer, with a schedule made for
# that length. Every explainer was then measured on photos that training never saw: of Imagenette
# {cite}`imagenette`, and of other kinds.

# %% tags=["hide-input"]
quality = read_benchmark(reference("quality.json"), "quality")
trained = pd.DataFrame(quality["rows"]).assign(method="T-TAME (our recipe)")
trained["budget"] = trained["minutes"]
rivals = trained.assign(method=trained["against"], mean=trained["rival"], low=trained["rival"],
                        high=trained["rival"])  # fmt: skip
both = pd.concat([trained, rivals])
kinds = both[both["data"] == "photos/val"]
plot_budgets(kinds, ["AD 50%", "IC 50%", "AD 15%", "IC 15%"], "minutes of training")

# %% [markdown]
# *Photos of other kinds: mean scores with 95 % intervals against the minutes of the whole run,
# start included. Grad-CAM needs no training: a flat line.*

# %% tags=["remove-input"]
masked = trained[trained["score"].str.match("AD|IC")]
ahead = masked["verdict"] == "better"
least = masked["steps"] == masked["steps"].min()
by = {metric: masked["score"].str.startswith(metric) for metric in ("AD", "IC")}
behind = int((masked["verdict"] == "worse").sum())
Markdown(
    "Against Grad-CAM, photo by photo, T-TAME (our recipe) is better in "
    + " and in ".join(
        f"{(ahead & own).sum()} of {own.sum()} comparisons by {metric}"
        for metric, own in by.items()
    )
    + f", worse in {behind or 'none'}, over {masked['data'].nunique()} sets of photos, "
    f"{masked['steps'].nunique()} lengths of training and 3 shares of pixels. It is better in "
    f"{(ahead & least).sum()} of {least.sum()} already after "
    f"{masked.loc[least, 'minutes'].iloc[0]:.1f} minutes, {masked['steps'].min()} steps. The "
    f"figure shows what more training adds. Minutes are those of {quality['hardware']}, which other work "
    "was using as well."
)

# %% [markdown]
# ## Train one yourself
#
# The same mechanism in small, on a few photos, again with tied rows and from a random start, so that
# everything the maps show has been learned. The objective is that of our recipe. It asks for what AD measures,
# the *relative drop* of the probability, on masks that are scaled to their own range and keep all
# pixels or half of them.

# %% tags=["hide-input"]
train, held = setting.divide(
    photos or setting.pick(quick=12, imagenette=9469, imagenet=100_000),
    held_out or setting.pick(quick=6, imagenette=200, imagenet=500),
    seed,
)
count = steps or setting.pick(quick=60, imagenette=600, imagenet=20_000)
batch = setting.pick(quick=6, imagenette=20, imagenet=60)
run = tempfile.TemporaryDirectory()
folder = Path(run.name)

# %%
explainer = ttame.attach(setting.backbone)  # the papers' mechanism, untrained
config = ours(init="free", learning_rate=3e-3, part_rates={}, tried=0.0)
config = config.replace(steps=count, batch_size=batch, workers=0)

# %% tags=["hide-input"]
raw = to_batch(held.paths[:watched], explainer.spec)
images = normalize(raw, explainer.spec)

# %%
watch = [MapSnapshots(images, every=count // 4)]  # keeps maps on the way
out = folder / "run"
trained = fit(explainer, train, config, out, callbacks=watch, progress=False)

# %% tags=["hide-input"]
learned = {"train/total": "objective", "train/drop": "relative drop", "train/area": "area"}
plot_curves(loss_curves(folder / "run"), learned, ylabel="loss", window=3)

# %% tags=["remove-input"]
device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
run_losses = loss_curves(folder / "run")["train/total"].dropna()
begun, ended = run_losses.head(3).mean(), run_losses.tail(3).mean()
Markdown(
    f"*The live run: {trained.record['steps']} steps of {batch} photos in "
    f"{trained.record['training_seconds']:.0f} seconds on this machine ({device}). The objective "
    f"{'falls' if ended < begun else 'does not fall: it goes'} from {begun:.2f}, the mean of its "
    f"first three points, to {ended:.2f}, that of its last three.*"
)

# %% [markdown]
# ### Masks before, during and after

# %% tags=["hide-input"]
stages = {f"step {step}": maps for step, maps in zip(watch[0].steps, watch[0].maps, strict=True)}
stages["recorded run"] = ttame.load(record["name"]).explain(raw).maps
names = [short_name(explainer.classes[index]) for index in trained.explain(raw).targets[:, 0]]
grid = [
    [(name, photo), *((stage, maps[row, 0]) for stage, maps in stages.items())]
    for row, (name, photo) in enumerate(zip(names, raw, strict=True))
]
plot_grid(grid, what="Held-out photos and their maps as training goes on")

# %% [markdown]
# *Photos that the live training does not see, with their maps before the first step, as training
# goes on, and from the recorded run on the GPU; each map from its own lowest to its highest value.
# Sixty steps on a few photos change little; on the right stands what a whole training makes of it.*
#
# ### Does it help on held-out photos?

# %% tags=["hide-input"]
methods = {
    "before training": ttame_method(prepare(explainer, train, config).eval()),
    "after": ttame_method(trained),
    "recorded run": ttame_method(ttame.load(record["name"])),
}
out = evaluate(trained, held, folder / "held_out.jsonl", methods=methods, seed=seed)
plot_metrics(per_sample(read_results(out)[1]))

# %% tags=["remove-input"]
means = summary(out)
changes = [
    f"{means.loc['before training', score]:.0f} to {means.loc['after', score]:.0f} at {score[3:-1]}\u00a0%"
    for score in ("AD 100%", "AD 50%", "AD 15%")
]
better = sum(
    bool(means.loc["after", score] < means.loc["before training", score])
    for score in ("AD 100%", "AD 50%", "AD 15%")
)
Markdown(
    f"*AD and IC of the {len(held)} held-out photos; lines are 95\u00a0% intervals over photos.* "
    f"From before to after, AD goes from {', '.join(changes)} of the pixels: it falls at {better} of 3 "
    f"shares. "
    + (
        f"{len(train)} photos and {count} steps show the direction; the recorded run, on "
        f"{record['photos']:,} photos, shows how far it leads."
        if better > 1
        else f"{len(train)} photos and {count} steps are too little for photos that training does "
        f"not see; the recorded run, on {record['photos']:,}, shows what more of both does."
    )
)

# %% [markdown]
# ## What a step costs
#
# No training can be faster than the classifier. A step of the papers' objective needs one of its forward passes without
# gradient and, on the masked photos, one forward and one backward pass. That is the
# {term}`floor <Floor>`; mechanism, objective and optimiser come on top.

# %% tags=["hide-input"]
throughput = read_benchmark(reference("throughput.json"), "training")
rows = pd.DataFrame(throughput["rows"]).set_index("classifier")
columns = {"step_images_per_second": "a step", "floor_images_per_second": "the floor"}
plot_bars(rows[list(columns)].rename(columns=columns), "photos per second")

# %% tags=["remove-input"]
over = 100 * (rows["ratio"] - 1)
Markdown(
    f"*Photos per second on {throughput['hardware']}, {rows['batch'].iloc[0]} photos per step, with "
    "the papers' objective.* A "
    f"step takes {over.min():.0f} to {over.max():.0f}\u00a0% longer than the floor, and "
    f"{rows['step_peak_mb'].min() / 1000:.1f} to {rows['step_peak_mb'].max() / 1000:.1f} GB of "
    "memory in all, classifier and photos included."
)

# %% [markdown]
# ### From CPU cores to a GPU

# %% tags=["hide-input"]
study = read_study(shipped("studies") / "learning.toml")
made = read_runs(shipped("results") / "learning")
lent = made.query("changes == 'nothing' and seed == 0")["minutes"].iloc[0]
seen = own["steps"] * own["config"]["batch_size"]
paces = {
    f"our recipe, {own['hardware'].split(',')[0]}": seen / own["minutes"] / 60,
    "our recipe, one H100": seen / lent / 60,
    "as published, one H100": pace,
}
plot_bars(pd.DataFrame({"whole trainings": paces}), "photos per second")

# %% tags=["remove-input"]
Markdown(
    "*Photos per second of whole trainings, from their records.* Our recipe took "
    f"{own['minutes']:.0f} minutes on {own['hardware']}, and {lent:.1f} minutes on an H100 that "
    f"other trainings ran on meanwhile: {own['steps']} steps of {own['config']['batch_size']} "
    f"photos, so {seen:,} of the {own['photos']:,} (the last {own['photos'] - seen} fill no step). "
    "A step this small does not fill such a card: several trainings fit on it at once, and reading "
    "photos becomes the limit. Our recipe is slower than the papers', here and on CPU cores, because "
    "it tries two more masks for most photos."
)

# %% [markdown]
# ## One GPU, and several
#
# `ttame train` uses a GPU where there is one. Several share every batch: the batch size counts the
# photos of all of them, so neither the steps nor what a step sees depend on their number.
#
# ```console
# $ ttame train --out runs/one
# $ ttame train --out runs/two --devices 2
# $ ttame train --profile imagenet --out runs/8 --devices 4 --nodes 2 --dry-run
# ```
#
# The last command only estimates the run, for the machine on which it is entered. From Python:

# %%
two = config.replace(epochs=8, steps=None, devices=2)
arguments = ["train", "--out", "runs/two", "--devices", "2"]
plan = plan_training(explainer, train, two, arguments)

# %% tags=["remove-input"]
scaling = read_benchmark(reference("scaling.json"), "scaling")
one_process, *_, most = scaling["rows"]
Markdown(
    f"- **steps:** {plan.steps} of {plan.batch_size} photos, {plan.share} per process\n"
    f"- **trained:** {plan.parameters:,} parameters\n"
    f"- **memory:** {plan.memory / 2**30:.1f} GiB per process\n"
    f"- **time:** at least {plan.floor:.0f} seconds, at the speed of this machine ({plan.device})\n"
    f"- **start it with:** `{plan.launch}`, or under Slurm `{plan.slurm}`\n\n"
    f"Two processes on two CPU cores ran {most['speedup']:.1f} times as fast as one on one core "
    f"({most['images_per_second']:.0f} against {one_process['images_per_second']:.0f} photos a "
    "second, reading included). Several GPUs have not been measured."
)

# %% [markdown]
# `--resume` continues a run that was killed; in a single CPU process it ends with the same weights,
# bit for bit. What a step sees is a function of seed and step alone.
#
# ## How our recipe was found
#
# By measuring. Each row of the figure is an explainer, measured on the same photos of Imagenette's
# validation split {cite}`imagenette`, which no training saw.

# %% tags=["hide-input"]
stations = {
    "cross-entropy, 1,475 steps": "recipe_cross_entropy.jsonl",
    "relative drop, 885 steps": "recipe_drop.jsonl",
    "gradients, untrained": "recipe_start.jsonl",
    "from there, 295 steps": "recipe_free.jsonl",
    "the same, rows tied": "recipe_tied.jsonl",
    "decoder, three layers": "recipe_layers.jsonl",
    "decoder, deepest layer": "imagenette_val.jsonl",
}
pieces = [
    scores(read_results(reference(file))[1]).assign(method=station, seed=0)
    for station, file in stations.items()
]
long = pd.concat(pieces)
plot_axis(long[long["score"].str.match("AD|IC")])

# %% [markdown]
# *Means over 500 photos with 95 % intervals, from our first attempt down to the explainer that
# ships. The first two start from the weights of the classifier's head, the others from its
# gradients at the deepest layer.*
#
# ### One thing at a time
#
# The recipe that ships, with one thing changed at a time, on photos of categories that training
# never shows. These trainings ran on one H100; our recipe and three layers were trained once more
# with another seed, on two CPU cores.

# %% tags=["hide-input"]
varied = axis_runs(run_scores(made), study.variants, "learning")
others = [name for name in dict.fromkeys(varied["method"]) if name != "our recipe"]
against = pd.concat(differences(varied, "our recipe", name).assign(against=name) for name in others)
plot_differences(against, "our recipe")

# %% [markdown]
# *Our recipe against each change, photo by photo: right of zero, our recipe is ahead. Lines are
# 95 % intervals over photos, which ignore seed variation (where there are two seeds, a photo counts
# with their mean); grey: no difference is shown.*

# %% tags=["remove-input"]
trials = read_study(shipped("studies") / "trials.toml")
tried = axis_runs(run_scores(read_runs(shipped("results") / "trials")), trials.variants, "trials")
judged, changed = (
    in_short(found.assign(against='"' + found["against"] + '"'), "Our recipe")
    for found in (paired_differences(tried, "our recipe", resamples=2000), against)
)
Markdown(
    changed
    + "\n\nAn earlier, shorter study asked whether trials of two masks teach more than gradients "
    'where only 15\u00a0% of the pixels are kept ("ranks by gradients" leaves the trials out). '
    + judged
)

# %% [markdown]
# ### What AD and IC do not see
#
# Two changes deserve a second look. The *complement* also asks that the photo without its map loses
# the class. *Mosaics* train on four photos side by side, one of whose classes is the target. On
# mosaics of photos that training never saw, the right place is known:

# %% tags=["hide-input"]
variants = {"our recipe": "plain", "complement": "complement", "70 % mosaics": "mosaics"}
told = pd.concat(
    {name: summary(reference(f"recipe_mosaics_{file}.jsonl")) for name, file in variants.items()}
).droplevel(1)
places = {"energy": "share of the map on the class", "pointing": "maximum on the class"}
plot_bars(told[list(places)].rename(columns=places), "%")

# %% tags=["remove-input"]
shown = told["energy"]
Markdown(
    "*How much of a map, scaled to its own range, lies on the photo of its class, of the four (by "
    "chance 25\u00a0%), and how often its maximum does.* The mosaics are those of "
    "[the evaluation](06_evaluation.ipynb), but the explainers are those of this study, and grid "
    "pointing there adds up the raw positive values of a map, which gives other shares. The "
    f"complement puts {shown['complement']:.0f}\u00a0% on the class, our recipe "
    f"{shown['our recipe']:.0f}\u00a0%, mosaics {shown['70 % mosaics']:.0f}\u00a0%. "
    + (
        "What the complement gains in AD, it gains by showing more, so it does not ship. "
        if shown["complement"] < shown["our recipe"]
        else ""
    )
    + (
        "Mosaics pull the map onto the class; whoever needs maps that tell apart the classes of one "
        "photo trains with `mosaics = 0.7` in the file given to `ttame train --config`."
        if shown["70 % mosaics"] > shown["our recipe"]
        else ""
    )
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
headers = {"recorded run": record, "our recipe": own, "a step": throughput, "processes": scaling}
headers["training time"] = quality
mosaics = [f"recipe_mosaics_{file}.jsonl" for file in variants.values()]
headers |= {file: read_results(reference(file))[0] for file in [*stations.values(), *mosaics]}
origins = {name: provenance_table(header)["provenance"] for name, header in headers.items()}
for name in ("learning", "trials"):
    origins[f"study {name}"] = study_provenance(shipped("results") / name)["provenance"]
pd.concat(origins).rename_axis(["of", "fact"]).to_frame().style

# %% [markdown]
# *Where the numbers of this chapter come from: the recorded run, our recipe, the benchmarks of a
# step, of several processes and of the training time, the results of single explainers, and the
# studies.*
#
# ## What to remember
#
# - The classifier's own answers are the labels: photos are all that training needs.
# - The objective weighs a recognised photo against a small, smooth mask. Held-out AD and IC, not the
#   loss, say whether maps get better.
# - A step of the papers' objective costs little more than the classifier's own passes, one of our
#   recipe more. Either way a training takes minutes on a GPU and fits on two CPU cores.
# - The number of devices changes the time, not the result.
# - AD and IC can be raised by showing more. Look at more than one score.
#
# ## Exercises
#
# **1.** How large may the learning rate be? Take one step at each of a dozen rates, from far too
# small to far too large, and look where the loss falls.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
tested = find_learning_rate(explainer, train, config, lowest=1e-5, highest=1.0, steps=12)
plot_learning_rates(tested, config.optimization.learning_rate)

# %% [markdown]
# **2.** How long would the papers' training take at the pace of the recorded run: eight epochs of
# ImageNet's 1,281,167 training photos?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
print(f"{8 * 1_281_167 / pace / 3600:.1f} hours, on this classifier and that card")

# %% [markdown]
# **3.** Do the maps of the live run get better by showing more? Print the mean of the masks of the
# held-out photos, from snapshot to snapshot.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
for step, maps in zip(watch[0].steps, watch[0].maps, strict=True):
    print(f"step {step:3}: {100 * normalize_maps(maps).mean():.0f} %")

# %% tags=["remove-cell"]
run.cleanup()
