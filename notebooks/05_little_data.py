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
# # Training on little data
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/05_little_data.ipynb)
#
# **Shows** what matters when there are ten thousand photos and two CPU cores in place of a million
# photos and GPUs, and how maps become good for classes that training never shows.
#
# **Costs** seconds: this page reads records. Each record is one training and its measurement, and
# names the command that makes it anew; a whole study takes one to two hours on two cores.
#
# **Data and model.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights; trained on
# photos of Imagenette's training split {cite}`imagenette` without using labels, measured on 500
# photos of its validation split.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
records = None  # folder with a study's records each; None: those that ship
resamples = 2000  # of the photos, for intervals

# %% [markdown]
# ## The study
#
# A study is a file: what all runs share, and variants that change one thing each. A variant is
# compared with the others of its axis; every axis has one that changes nothing.

# %%
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display

import ttame
from ttame.companion.figures.curves import plot_metrics
from ttame.companion.figures.scores import plot_costs, plot_differences
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import provenance_table, read_benchmark, reference, training_record
from ttame.companion.studies.records import read_runs, study_provenance
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import (
    axis_runs,
    mean_scores,
    run_scores,
    sight_gap,
    split_by_sight,
    study_table,
)
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.tables import read_together, scores
from ttame.files import shipped
from ttame.records import read_results

quiet()
setting = open_profile(profile)
folder = Path(records) if records else shipped("results")
study = read_study(shipped("studies") / "little_data.toml")
runs = read_runs(folder / "little_data")
missing = [run.name for run in study.runs if run.name not in set(runs["run"])]
print(f"{runs['run'].nunique()} of {len(study.runs)} runs are there", *missing, sep="\nnot run: ")
study_table(study.variants)

# %%
shared = {key: str(value) for key, value in vars(study.budget).items()}
pd.DataFrame({"what all runs share": shared})

# %% [markdown]
# ```console
# $ ttame study data/studies/little_data.toml --out data/results/little_data
# ```
#
# ## What each choice does

# %%
long = run_scores(runs)
everything = mean_scores(long)
everything.round(1)

# %% [markdown]
# *AD (lower is better) and IC (higher is better) in percent, means over photos and runs; a row is
# named by what it changes. The unchanged recipe was run with two seeds, which differ by:*

# %%
seeds = axis_runs(long, study.variants, "seed").pivot_table(
    index="seed", columns="score", values="value", sort=False
)
(seeds.max() - seeds.min()).round(2).rename("between two seeds").to_frame().T

# %% [markdown]
# *Largest difference of the means between seeds, percentage points. Differences between variants
# that are as small mean nothing.*
#
# The axes of which more than one variant was run:

# %%
for axis in dict.fromkeys(variant.axis for variant in study.variants):
    shown = axis_runs(long, study.variants, axis)
    if shown["method"].nunique() > 1:
        display(Markdown(f"**{axis.capitalize()}**"), plot_metrics(shown))

# %% [markdown]
# *Bars are means over photos, lines 95 % intervals over photos. Photos: how many different ones,
# the steps stay the same. Learning rate: the maximum of the schedule. Resolution: of the photos in
# training; measured is at 224 pixels always. Label mode: whether the maps of all labels of a batch
# are regularised or each photo's own. Reduction: of the variation. Recipe: our
# first (`linear`), which the whole study starts from, or the papers' with AdamW in place of SGD,
# which was made for many more steps.*
#
# ### In words
#
# Photo by photo against the unchanged recipe, with seed 0:

# %%
first = long[long["seed"] == 0]
differences = paired_differences(first, "nothing", resamples=resamples)
Markdown(in_words(differences, "The unchanged recipe"))

# %% [markdown]
# *Verdicts of 95 % bootstrap intervals over photos; none is corrected for the number of
# comparisons, and none knows what another seed would change.*
#
# What this settles, at this length of training: how the variation is reduced makes no difference
# that can be seen, and hardly any whose maps are regularised, so the cheaper choice stands, own
# maps and a mean. The learning rate matters most: too low learns little, too high loses the order
# of the most relevant pixels. Full resolution and augmentation help where all pixels are retained.
# A hundred photos do as well as thousands, because the fusion starts from the classifier; more
# steps still help.
#
# ## Quality against time

# %%
timed = runs.drop_duplicates("run").groupby("changes")["minutes"].mean()
quick = {row.changes: row.name for row in study.variants if row.axis in ("steps", "resolution")}
costs = everything.assign(minutes=timed).loc[[key for key in quick if key in everything.index]]
scored = {"AD 50%": "AD at 50 %", "IC 50%": "IC at 50 %"}
plot_costs(costs.rename(quick), "minutes", scored, "minutes of training", method=quick["nothing"])

# %% [markdown]
# *Quality against training time, starting included, of the variants that change the time. Two runs
# shared the machine, one core each, so that on an idle machine of two cores each would take about
# half as long. In colour: the variant that changes nothing.*
#
# ### What cached features would save
#
# The first of the two passes over a photo could be kept from epoch to epoch. It can only where the
# photo is the same in every epoch, so not with augmentation, and it saves nothing in the first
# epoch.

# %%
throughput = read_benchmark(reference("throughput.json"), "training")
step = pd.DataFrame(throughput["rows"]).set_index("classifier")
whole = 1000 / step.loc[setting.backbone, "step_images_per_second"]
passes = pd.DataFrame(read_benchmark(reference("benchmark.json"))["rows"])
batch = passes[(passes["backbone"] == setting.backbone) & (passes["batch"] == 32)].iloc[0]
first_pass = batch["forward_ms"] / batch["batch"]
explainer = ttame.load(setting.backbone)
with torch.inference_mode():
    maps = explainer.extract(torch.zeros(1, 3, *explainer.spec.input_size))[1]
size = sum(item.numel() * item.element_size() for item in maps) * 9469 / 1e9
pd.Series(
    {
        "a training step, ms per photo": whole,
        "of it the first pass, ms": first_pass,
        "share that caching would save from the second epoch on, %": 100 * first_pass / whole,
        "feature maps of 9,469 photos, gigabytes": size,
    }
).round(1).to_frame("cached features")

# %% [markdown]
# *From the benchmarks of training and of explanations, the same classifier and machine; the size is
# that of the maps that the explainer reads, in single precision.*
#
# So it would save about a third of the time of later epochs and cost augmentation, which helps
# (above), and gigabytes. The recipe takes one epoch, where it saves nothing. Nothing is cached.
#
# ## Ahead of class activation maps?
#
# The shipped explainer against the methods that need no training, on the same 500 photos:

# %%
record = training_record("tf_efficientnet_lite0")
print(f"trained in {record['minutes']:.1f} min, {record['steps']} steps, {record['hardware']}")
_, measured = read_together(
    reference("imagenette_val.jsonl"), reference("imagenette_val_cam.jsonl"),
    reference("imagenette_val_score.jsonl"),
)  # fmt: skip
rivals = ("Grad-CAM", "Grad-CAM++", "Layer-CAM", "Score-CAM")
masked = scores(measured[measured["method"].isin(["T-TAME", *rivals])])
masked = masked[masked["score"].str.startswith(("AD", "IC"))]
against = paired_differences(masked, resamples=resamples)
plot_differences(against)

# %%
Markdown(in_words(against))

# %% [markdown]
# ## Classes that training never shows
#
# The published fusion has one free row for every class. With Imagenette's ten classes, 990 rows
# learn nothing. Two changes help: rows that *start* at the classifier's own gradients, and rows
# that are *tied* to them, so that all classes share what is learned (`fusion="tied"`,
# [method](../book/method.md)).
#
# Each variant below was trained twice, on the photos of either half of the classes, and measured on
# photos of all ten. So each photo's class is seen by one of the two runs and unseen by the other.

# %%
halves = read_study(shipped("studies") / "every_class.toml")
half_runs = read_runs(folder / "every_class")
absent = [run.name for run in halves.runs if run.name not in set(half_runs["run"])]
print(f"{half_runs['run'].nunique()} of {len(halves.runs)} runs are there", *absent,
      sep="\nnot run: ")  # fmt: skip
split = split_by_sight(axis_runs(run_scores(half_runs), halves.variants, "fusion"))
gap = sight_gap(split)
values = ["seen", "unseen", "difference"]
wide = gap.pivot_table(index="against", columns="score", values=values, sort=False)
wide = wide.rename(columns={"difference": "gap"}).swaplevel(axis=1).rename_axis(index=None)
wide[["AD 100%", "AD 50%", "AD 15%"]].round(1)

# %%
wide[["IC 100%", "IC 50%", "IC 15%"]].round(1)

# %% [markdown]
# *Means over 500 photos with a run that was shown their class and one that was not, and the gap,
# unseen minus seen, in percentage points.*

# %%
plot_differences(gap, "unseen classes")

# %% [markdown]
# *The same differences with 95 % bootstrap intervals over photos, turned so that left of zero
# unseen classes are worse.*
#
# On unseen classes, against Grad-CAM on the same photos:

# %%
unseen = split[split["sight"] == "unseen"]
gradcam = masked[masked["method"] == "Grad-CAM"]
pieces = []
for name, rows in unseen.groupby("method", sort=False):
    both = pd.concat([rows[list(gradcam)], gradcam])
    pieces.append(paired_differences(both, name, resamples=resamples).assign(variant=name))
verdicts = pd.concat(pieces).pivot_table(
    index="variant", columns="score", values="verdict", aggfunc="first", sort=False
)
verdicts.rename_axis(index=None)

# %% [markdown]
# *Each variant's maps of unseen classes against Grad-CAM: better or worse where the 95 % interval
# of the paired differences leaves zero out, else open.*
#
# What this settles: free rows from a random start are no explanation for a class that training did
# not show. The classifier's gradients as a start repair most of that. From there on, one pass over
# the photos leaves unseen classes about where they began, level with Grad-CAM: the variants differ
# in how much they gain on classes that training shows. Tied rows gain most there, at a quarter of
# the rate at every share of pixels, and lose nothing on unseen classes, so our recipes tie them;
# their gap is somewhat above three points of AD because seen classes are better, not because unseen
# ones are worse. Drawing the target among several probable classes (`--ranks 2`) keeps the gap
# below three points at every share, and one row shared by all does, too; both give up what training
# wins on seen classes. Five target classes and three times the steps keep it at one point or less,
# and give the only row that is better than Grad-CAM on IC of unseen classes with all pixels
# retained. On seen classes it is worse than what ships at every share, so it is an option and not
# the default. Small crops, which the classifier gives many more classes than ten, do not carry the
# gain over to unseen ones. More photos of more classes are what would help.
#
# ### A transformer
#
# The same with the small transformer, which knows ten classes only:

# %%
tokens = read_study(shipped("studies") / "every_class_vit.toml")
token_runs = run_scores(read_runs(folder / "every_class_vit"))
token_gap = sight_gap(split_by_sight(axis_runs(token_runs, tokens.variants, "fusion")))
wide = token_gap.pivot_table(index="against", columns="score", values=values, sort=False)
wide = wide.rename(columns={"difference": "gap"}).swaplevel(axis=1).rename_axis(index=None)
wide[["AD 100%", "AD 50%", "AD 15%"]].round(1)

# %% [markdown]
# *As above: means over 500 photos with a run that was shown their class and one that was not, and
# the gap, unseen minus seen, in percentage points.*
#
# Here the gap is wider. With ten classes in all, training shows five, and tied rows have five
# directions to learn from; rows that only start at the classifier keep more of what they began with
# on the others, and are the better choice for this network where not all classes can be shown.

# %%
provenance_table(read_results(reference("imagenette_val.jsonl"))[0]).style

# %%
names = ("little_data", "every_class", "every_class_vit")
origins = [study_provenance(folder / name)["provenance"] for name in names]
pd.concat(origins, axis=1, keys=names).style

# %% [markdown]
# *Where the numbers of this page come from: those of the shipped explainer and of the methods that
# need no training, then those of the studies.*
