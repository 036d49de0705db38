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
# **You will learn**
#
# - how few photos and steps are enough, and which settings matter when there are few;
# - how maps become good for classes that training never shows.
#
# **It costs** about 30 seconds and 1.5 GB of memory on one CPU core: the trainings are read from
# their records. Each record names the command that makes it anew; a whole study takes one to two
# hours.
#
# **Model and photos.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights. The
# mechanisms were trained on photos of Imagenette {cite}`imagenette`, ten classes, without their
# labels, and measured on 500 photos of its validation split.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
records = None  # folder with a study's records each; None: those that ship
resamples = 1000  # of the photos, for intervals

# %% tags=["hide-input"]
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.studies import plot_axis, plot_ranking
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
from ttame.companion.studies.verdicts import axis_words, ranking
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.tables import read_together, scores
from ttame.files import shipped
from ttame.records import read_results

quiet()
setting = open_profile(profile)
folder = Path(records) if records else shipped("results")

# %% [markdown]
# ## How many photos?
#
# The papers train on ImageNet's 1.28 million photos. Here the mechanism was trained for 148 steps of
# 32 photos, on 9,469 photos of Imagenette, on 1,000 of them and on 100.

# %%
study = read_study(shipped("studies") / "little_data.toml")
runs = read_runs(folder / "little_data")
long = run_scores(runs)
plot_axis(axis_runs(long, study.variants, "photos"))

# %% [markdown]
# *{term}`Average Drop` (AD) and {term}`Increase in Confidence` (IC) when 100, 50 and 15 % of the
# pixels are kept; means with 95 % intervals over photos and seeds. Hollow marks are single seeds.*

# %% tags=["remove-input"]
photos = axis_words(long, study, "photos", resamples)
Markdown(
    f"{photos}\n\n**A hundred photos do as well as thousands.** The mechanism does not start from "
    "nothing: its rows begin as the classifier's own gradients, so that there is little left to "
    "learn, and a hundred photos are enough to learn it."
)

# %% [markdown]
# ## What matters
#
# A {term}`study <Ablation>` changes one thing at a time. Its file says what all runs share and what
# each changes; every axis has one run that changes nothing. One command makes it anew:
#
# ```console
# $ ttame study data/studies/little_data.toml --out data/results/little_data
# ```

# %% tags=["hide-input"]
plot_ranking(ranking(long, study, resamples))

# %% [markdown]
# *What every change does, best first: IC minus AD, averaged over the three shares of pixels, against
# the run of its axis that changes nothing. Lines are 95 % intervals, which ignore seed variation
# where there is one seed; grey: no difference is shown.*
#
# The same in numbers, with intervals, percentage points:

# %% tags=["remove-input"]
axes = [axis for axis in dict.fromkeys(row.axis for row in study.variants)
        if axis not in ("photos", "seed")]  # fmt: skip
lines = [f"**{axis.capitalize()}.** {axis_words(long, study, axis, resamples)}" for axis in axes]
Markdown("\n\n".join(lines))

# %% [markdown]
# *All runs use our first recipe, without a {term}`decoder <Decoder>`, unless they say `as published`.
# Resolution is that of training; every run is measured at 224 pixels. Label mode: whether the maps
# of all labels of a batch are kept small and smooth, or each photo's own. Reduction: how the
# variation of a map is averaged. The papers' recipe was made for many more steps.*

# %% tags=["remove-input"]
by_seed = axis_runs(long, study.variants, "seed").pivot_table(
    index="seed", columns="score", values="value"
)
apart = by_seed.max() - by_seed.min()
Markdown(
    f"Two seeds of the unchanged recipe differ by up to {apart.max():.1f} points ({apart.idxmax()}); "
    "differences between variants that are no larger mean little."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all variants", "code_prompt_hide": "Hide the variants"}
study_table(study.variants)

# %% [markdown]
# *All variants of the study.*
#
# [GPU training](04_training.ipynb) shows what more minutes of training buy.
#
# ### Keep the feature maps?
#
# The classifier is frozen, so its first pass over a photo gives the same feature maps in every
# epoch. They could be computed once and kept.

# %% tags=["remove-input"]
throughput = read_benchmark(reference("throughput.json"), "training")
step = pd.DataFrame(throughput["rows"]).set_index("classifier")
whole = 1000 / step.loc[setting.backbone, "step_images_per_second"]
passes = pd.DataFrame(read_benchmark(reference("benchmark.json"))["rows"])
batch = passes[(passes["backbone"] == setting.backbone) & (passes["batch"] == 32)].iloc[0]
first_pass = batch["forward_ms"] / batch["batch"]
explainer = ttame.load(f"{setting.backbone}_layers")
with torch.inference_mode():
    maps = explainer.extract(torch.zeros(1, 3, *explainer.spec.input_size))[1]
size = sum(item.numel() * item.element_size() for item in maps) * 9469 / 1e9
Markdown(
    f"In the benchmark, the first pass takes {first_pass:.1f} of the {whole:.1f} ms that a step "
    f"spends on a photo, {100 * first_pass / whole:.0f}\u00a0%. The feature maps of three layers of all 9,469 photos would fill "
    f"{size:.1f} GB, and crops and flips would be lost, because the kept maps are of one view each. "
    "The recipe makes a single pass over the photos, where nothing can be saved. Nothing is kept."
)

# %% [markdown]
# ## Ahead of class activation maps?
#
# The explainer that ships was trained by our recipe on 13,684 photos of many kinds. On the same 500
# photos of Imagenette, against methods that need no training:

# %% tags=["hide-input"]
_, measured = read_together(
    reference("imagenette_val.jsonl"), reference("imagenette_val_cam.jsonl"),
    reference("imagenette_val_score.jsonl"),
)  # fmt: skip
rivals = ("Grad-CAM", "Grad-CAM++", "Layer-CAM", "Score-CAM")
masked = scores(measured[measured["method"].isin(["T-TAME", *rivals])])
masked = masked[masked["score"].str.startswith(("AD", "IC"))]
against = paired_differences(masked, resamples=resamples)
plot_differences(against)

# %% [markdown]
# *T-TAME (our recipe) minus each method, photo by photo, turned so that right of zero T-TAME is
# ahead; 95 % intervals over photos.*

# %% tags=["remove-input"]
record = training_record(setting.backbone)
Markdown(
    f"{in_words(against)}\n\nThe explainer was trained in {record['minutes']:.0f} minutes on "
    f"{record['hardware']}."
)

# %% [markdown]
# ## Classes that training never shows
#
# The {term}`fusion <Fusion>` as published has one {term}`free row <Free rows>` of weights per class.
# Trained on the ten classes of Imagenette, the other 990 rows learn nothing. Two changes help. Rows
# can *start* at the classifier's own gradients. And rows can be {term}`tied <Tied rows>` to them, so
# that all classes share what is learned.
#
# To measure it, each variant was trained twice, on the photos of either half of the classes. So every
# photo's class is seen by one run and unseen by the other.

# %% tags=["hide-input"]
halves = read_study(shipped("studies") / "every_class.toml")
split = split_by_sight(
    axis_runs(run_scores(read_runs(folder / "every_class")), halves.variants, "fusion")
)
gap = sight_gap(split)
few = ["free rows", "classifier rows", "one shared row", "tied rows", "tied rows, a quarter of the rate",
       "tied rows, five target classes"]  # fmt: skip
plot_differences(gap[gap["against"].isin(few)], "unseen classes")

# %% [markdown]
# *Unseen minus seen classes, turned so that left of zero unseen classes are worse; 95 % intervals
# over 500 photos.*

# %% tags=["remove-input"]
at = gap.set_index(["against", "score"])
free, tied = at.loc[("free rows", "AD 50%")], at.loc[("tied rows, a quarter of the rate", "AD 50%")]
gradcam = masked[masked["method"] == "Grad-CAM"]
judged = pd.concat(
    paired_differences(
        pd.concat([rows[list(gradcam)], gradcam]), str(name), resamples=resamples
    ).assign(variant=name)
    for name, rows in split[split["sight"] == "unseen"].groupby("method", sort=False)
)
started = at.loc[("classifier rows", "AD 50%")]
verdicts = judged.groupby("variant")["verdict"].agg(set)
poor = judged.loc[judged["verdict"] == "worse", "variant"]
good = [name for name, found in verdicts.items() if "better" in found]
Markdown(
    f"**With free rows, the map of a class that training did not show explains nothing:** AD at 50 % is "
    f"{free['seen']:.0f} % on seen classes and {free['unseen']:.0f} % on unseen ones. Rows that start "
    f"at the classifier have {started['seen']:.1f} and {started['unseen']:.1f} %, tied rows at a "
    f"quarter of the learning rate {tied['seen']:.1f} and {tied['unseen']:.1f} %.\n\nOn unseen "
    "classes, "
    + " and ".join(
        f"“{name}” are worse than Grad-CAM on {count} of {judged['score'].nunique()} scores"
        for name, count in poor.value_counts().items()
    )
    + f". None of the {len(verdicts) - poor.nunique()} other variants is worse on any, and "
    f"{len(good)} are better on one or more; for the others no difference is shown. Our recipe ties "
    "the rows, and the explainer that ships is trained on photos of many kinds."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the table", "code_prompt_hide": "Hide the table"}
table = gap[gap["score"] == "AD 50%"].set_index("against")[["seen", "unseen", "difference"]]
table.rename(columns={"difference": "gap"}).rename_axis("AD at 50 %").round(1)

# %% [markdown]
# *Every variant that was tried: AD when half of the pixels are kept, on seen and unseen classes.
# `one shared row`: all rows keep their start, and one learned row is added to each.
# `target classes`: the class to be explained is drawn from the most probable ones. `small crops`:
# training sees small parts of photos, which the classifier gives many more classes.*
#
# ### A transformer
#
# The same with a small Vision Transformer that knows only ten classes; each training shows five of
# them:

# %% tags=["hide-input"]
tokens = read_study(shipped("studies") / "every_class_vit.toml")
token_runs = run_scores(read_runs(folder / "every_class_vit"))
token_gap = sight_gap(split_by_sight(axis_runs(token_runs, tokens.variants, "fusion")))
plot_differences(token_gap, "unseen classes")

# %% [markdown]
# *As above, for the transformer.*

# %% tags=["remove-input"]
wide = token_gap[token_gap["score"] == "AD 50%"].set_index("against")["difference"]
Markdown(
    "In AD at 50 %, unseen classes are behind seen ones by "
    + ", ".join(f"{value:.0f} points with “{name}”" for name, value in wide.items())
    + ". With five classes to learn from, tied rows learn along five directions at most. Where not "
    "all classes can be shown, free rows that start at the classifier keep more of their good start."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
files = {f"imagenette_val{part}.jsonl" for part in ("", "_cam", "_score")}
headers = {file: read_results(reference(file))[0] for file in sorted(files)}
headers |= {"a step": throughput, "a pass": read_benchmark(reference("benchmark.json"))}
origins = {name: provenance_table(header)["provenance"] for name, header in headers.items()}
for name in ("little_data", "every_class", "every_class_vit"):
    origins[name] = study_provenance(folder / name)["provenance"]
pd.concat(origins).rename_axis(["of", "fact"]).to_frame().style

# %% [markdown]
# *Where the numbers of this chapter come from.*
#
# ## What to remember
#
# - A start from the classifier's own gradients makes a hundred photos enough.
# - The learning rate and the number of steps matter; how the regularisers are averaged hardly does.
# - Free rows explain only classes that training shows. Tied rows share what is learned.
# - Intervals over photos ignore seed variation: a difference as small as that between two seeds says
#   nothing.
#
# ## Exercises
#
# **1.** Which single change costs most in AD when all pixels are kept?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
means = mean_scores(long)["AD 100%"]
(means - means["nothing"]).nlargest(1).round(1).rename("more AD at 100 %").to_frame().style.format(
    precision=1
)

# %% [markdown]
# **2.** How many minutes does a training of 148 steps take, and how many photos per second is that?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
minutes = runs.loc[runs["changes"] == "nothing", "minutes"].mean()
print(f"{minutes:.1f} minutes, {148 * 32 / minutes / 60:.0f} photos per second, start included")

# %% [markdown]
# **3.** Is the published recipe behind ours on every score, and could chance explain it?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
plot_differences(paired_differences(axis_runs(long, study.variants, "recipe"), "ours"), "ours")
