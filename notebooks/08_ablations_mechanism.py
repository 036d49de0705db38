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
# # Ablations of the mechanism
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/08_ablations_mechanism.ipynb)
#
# **You will learn**
#
# - how to read an {term}`ablation <Ablation>`: what a difference is worth without its interval,
#   its seeds and something to hold it against;
# - what each part of the {term}`attention mechanism <Attention mechanism>` does when there is
#   little time to train: skip connection, batch norm, activation, and the branch as a whole;
# - which layers are worth reading, of a convolutional network and of a transformer.
#
# **It costs** about 30 seconds and 1.5 GB of memory on one CPU core; nothing is downloaded. The
# trainings are not repeated here, their records are read.
#
# **Model and photos.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights; for the
# transformer axes, this project's transformer of ten classes. Trained on photos of Imagenette's
# training split {cite}`imagenette`, measured on photos of its validation split. The maps at the end
# are of sample photos.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
records = None  # folder with the study's records; None: those that ship
resamples = 1000  # of photos and seeds, for intervals
shown = ["german_shepherd", "ring_tailed_lemurs", "scarlet_macaw"]  # sample photos

# %% tags=["hide-input"]
import torch
from IPython.display import Markdown, display

import ttame
from ttame.companion.figures.studies import show_axis
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import provenances, reference
from ttame.companion.studies.records import read_runs, study_provenance, unfinished
from ttame.companion.studies.references import read_references, top1
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import axis_runs, differences, mean_scores, run_scores
from ttame.companion.studies.verdicts import check_claims, ranking
from ttame.data import samples
from ttame.evaluation.diagnosis import keep_layers
from ttame.files import shipped
from ttame.images import normalize, to_batch
from ttame.plotting import plot_methods
from ttame.records import read_results

open_profile(profile)
quiet()

# %% [markdown]
# ## One thing at a time
#
# An ablation asks what a part is good for by leaving it out. The answer is only as good as the
# comparison: everything else must stay as it was. So the whole {term}`study <Study>` is one file,
# `data/studies/ablations.toml`, in which every row changes one thing of the papers' mechanism and
# objective, trained from a random start; a row that changes two things at once is refused.

# %%
study = read_study(shipped("studies") / "ablations.toml")
folder = records or shipped("results") / "ablations"
runs = read_runs(folder)
long = run_scores(runs)
judged = long[long["percentage"] < 100]

# %% tags=["hide-input"]
small, large = runs[runs["run"] == "nothing_seed0"], read_results(reference("imagenette_val.jsonl"))
at = {pixels: top1(table["target"], table["photo"]) for pixels, table in
      ((study.budget.size, small), (224, large[1]))}  # fmt: skip
fewer = next(row.budget["steps"] for row in study.variants if "steps" in row.budget)
minutes = runs.groupby("run")["minutes"].first().sum()
left = unfinished(study, folder)
Markdown(
    f"**The budget.** {len(study.runs) - len(left)} of {len(study.runs)} runs are recorded, each "
    f"{study.budget.steps} steps of {study.budget.batch_size} photos ({fewer} for the transformer) "
    f"and measured on {runs['photo'].nunique()} photos; "
    f"{minutes / 60:.1f} hours of training on two cores in all. To keep it that short, photos have "
    f"{study.budget.size} pixels a side instead of 224, and the classifier pays for it: on these "
    f"photos it is right on {at[study.budget.size]:.0f} % instead of {at[224]:.0f} %. The study "
    "says what learns fast on a weakened classifier, not what is best in the end."
)

# %% [markdown]
# Scores are {term}`Average Drop` (AD) and {term}`Increase in Confidence` (IC) with 50 and 15 % of
# the pixels retained. With all pixels retained, a map that looks at nothing wins, as the
# [evaluation](06_evaluation.ipynb) shows, so those two scores are left out here. The same
# photos at the same size were also given to methods that need no training; they are the vertical
# lines in the figures.

# %%
lines = read_references(["size128_val.jsonl"], set(runs["photo"]))
lines = lines[~lines["score"].str.contains("100")]

# %% [markdown]
# ## Architecture
#
# A {term}`feature branch <Feature branch>` is a 1×1 convolution, batch norm, the
# {term}`skip connection <Skip connection>` that adds the branch's input, and a ReLU. Each part can
# be left out. Without any of them the {term}`fusion <Fusion>` reads the feature maps as they are,
# which makes it an L-CAM {cite}`lcam` on three layers.

# %%
show_axis(judged, study, "architecture", lines, resamples)

# %% [markdown]
# *How to read all figures of this chapter. Filled marks are means over photos and seeds with 95 %
# intervals; hollow marks are single seeds. The orange line is Grad-CAM, the grey ones are maps that
# look at nothing. The sentence below a figure sums it up: IC minus AD, averaged over 50 and 15 %,
# paired photo by photo against the row that changes nothing, in percentage points with a 95 %
# interval. "No difference" means that the interval holds zero.*
#
# With so little training the full branch is the slowest to learn. What holds it back is the skip
# connection: leaving it out helps alone, with batch norm gone as well, and in the papers' own
# variant that also widens the branch. A sigmoid in place of the ReLU learns faster, too; for batch
# norm no difference is shown.

# %% tags=["hide-input"]
best = judged[judged["score"] == "AD 50%"].groupby("method")["value"].mean().drop(
    [name for name in judged["method"].unique() if "vit" in name]).min()  # fmt: skip
camera = lines[(lines["score"] == "AD 50%") & (lines["method"] == "Grad-CAM")]["value"].mean()
Markdown(
    f"Look at the orange line as well. By AD at 50 %, Grad-CAM, which trains nothing, has "
    f"{camera:.1f} %; the best of all variants of this classifier in the two chapters has "
    f"{best:.1f} %. A hundred steps from a random start do not make a map that competes."
)

# %% [markdown]
# ## Layers
#
# How many layers should the mechanism read, and which? In this network strides do what pooling does
# in VGG, so the papers' choice between the map before and after pooling becomes one between the
# last block before a stride and the first one behind it.

# %%
show_axis(judged, study, "layers", lines, resamples)

# %% [markdown]
# *The rows name how many layers are read and which. By default these are the last blocks before the
# three deepest strides; "one" is the deepest of them.*
#
# Depth matters more than number. The deepest layer alone is ahead of three, and the earlier the
# maps that join it, the worse. Several layers promise finer maps; a short training from a random
# start cannot keep that promise.
#
# ## Resolution, and the map that is read
#
# Two choices concern the maps alone. The layers' maps are brought to
# the size of the largest of them, or of the smallest. And the map, trained through a sigmoid, is
# read before it, or behind it.

# %%
show_axis(judged, study, "resolution", lines, resamples)
show_axis(judged, study, "inference map", lines, resamples)

# %% [markdown]
# *Above, the common size of the maps; below, where the same trained mechanism's map is read.*
#
# The smallest map has four by four cells at 128 pixels, and a coarse map is hard to get wrong; this
# says little about 224 pixels. Behind the sigmoid the order of the pixels is the same and only
# their values change, so that all of this gain is one of brightness.
#
# ## Variants that can be looked at
#
# The study measured its mechanisms and did not keep them, so their maps cannot be drawn. Explainers
# of the same classifier that do ship with weights, fully trained at 224 pixels, differ in the same
# respects.

# %%
names = {
    "our recipe, one layer": "tf_efficientnet_lite0",
    "our recipe, three layers": "tf_efficientnet_lite0_layers",
    "as published": "tf_efficientnet_lite0_published",
    "no branch (L-CAM-Fm)": "tf_efficientnet_lite0_lcam_fm",
}
explainers = {title: ttame.load(name) for title, name in names.items()}

# %% tags=["hide-input"]
explainer = explainers["our recipe, one layer"]
paths = {path.stem: path for path in samples().paths}
raw = to_batch([paths[name] for name in shown], explainer.spec)
images = normalize(raw, explainer.spec)
with torch.inference_mode():
    target = explainer.classifier(images).argmax(dim=1)
    maps = {title: found(images, target[:, None])[2] for title, found in explainers.items()}
maps["as published, behind the sigmoid"] = maps["as published"].sigmoid()
captions = [explainer.classes[index].split(",")[0] for index in target.tolist()]
plot_methods(raw, maps, captions)

# %% [markdown]
# *Three sample photos with the predicted class, and its maps. Each map is scaled to its own range.*
#
# The two maps by our recipe can hardly be told apart by eye, which is why it reads one layer; the
# [next chapter](09_ablations_training.ipynb) has the scores. The published mechanism reads a finer
# grid and shows it. Behind its sigmoid the order of the pixels is the same, but values far from
# zero are flattened.
#
# ## Transformers
#
# A transformer raises three questions of its own. Which of a block's outputs should be read: the
# normalised input of its attention, or what the block puts out? Should a branch mix places by
# self-attention instead of channels by convolution? And what becomes of the
# {term}`class token <Class token>`, which belongs to no place?

# %%
tokens = read_references(["vit_imagenette_val.jsonl"], set(runs["photo"]))
tokens = tokens[~tokens["score"].str.contains("100")]
for axis in ("transformer layers", "transformer branches", "class token"):
    show_axis(judged, study, axis, tokens, resamples)

# %% [markdown]
# *From above: layers, branches, class token; the transformer of ten classes at 224 pixels, so the
# lines are not those of the figures before.*
#
# Reading the blocks' inputs beats reading their outputs, and three blocks beat two or one:
# a transformer keeps one resolution, so a further block costs no sharpness. Self-attention in the
# branches costs more and buys nothing that can be told from chance. Multiplying the patches by the
# class token makes maps worse. The [chapter on transformers](07_vision_transformers.ipynb) measures
# the same after a full training.
#
# ## What the authors say
#
# The papers' tables were not at hand. Their public code holds remarks on what helped, and each can
# be held against a pair of rows.

# %% tags=["hide-input"]
claims = check_claims(judged, study, resamples).set_index("claim")
claims[["measured", "verdict"]].style.set_properties(**{"text-align": "left"})

# %% [markdown]
# *Measured: the lead, in percentage points, of the row that the remark favours, with its 95 %
# interval; "open" where that holds zero. Remarks that name 15 % are judged by AD at 15 %.*
#
# None of the remarks is confirmed. That is no refutation: they are about VGG-16 and ResNet-50 on
# ImageNet, trained for far longer. It is a warning that a choice made at one scale need
# not carry over to another.
#
# ## Every number
#
# The rows, the means behind the figures, and where the records come from.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all means", "code_prompt_hide": "Hide the means"}
axes = ["architecture", "layers", "resolution", "inference map", "transformer layers",
        "transformer branches", "class token"]  # fmt: skip
for axis in axes:
    display(Markdown(f"**{axis.capitalize()}**"))
    display(mean_scores(axis_runs(long, study.variants, axis)).style.format(precision=1))

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
if len(left):
    display(left)
sources = {name: read_results(reference(name))[0]
           for name in ("size128_val.jsonl", "vit_imagenette_val.jsonl", "imagenette_val.jsonl")}  # fmt: skip
display(provenances(sources).style.set_properties(**{"text-align": "left"}))
study_provenance(folder).style.set_properties(**{"text-align": "left"})

# %% [markdown]
# *Means in percent. One command runs what has no record yet, as many runs side by side as there are
# cores, and goes on where it was stopped; other executors of Snakemake {cite}`snakemake` spread the
# same runs over a cluster:*
#
# ```console
# $ snakemake --cores 2 ablations
# $ snakemake --profile profiles/slurm ablations
# ```
#
# ## What to remember
#
# - Change one thing at a time, pair photo by photo, and give the interval; hold all of it against a
#   method that trains nothing and maps that look at nothing.
# - In a short training the skip connection is in the way; for batch norm no difference is shown.
# - The deepest layer of a convolutional network says most; a transformer gains from several blocks,
#   read at their inputs.
# - A short study ranks what learns fast. What is best after long training is another question.
#
# ## Exercises
#
# **1.** "One layer is ahead of three" does not say that one is ahead of two. Is it?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
rows = axis_runs(judged, study.variants, "layers")
differences(rows, "one", "two", resamples).set_index("score").round(1).style.format(precision=1)

# %% [markdown]
# **2.** The explainer with three layers was trained with all of them. Read only its deepest layer,
# or only its earliest. Which of them makes the map?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
three = explainers["our recipe, three layers"]
with torch.inference_mode():
    parts = {name: keep_layers(three, [name])(images, target[:, None])[2] for name in three.layers}
plot_methods(raw, {"all three": maps["our recipe, three layers"], **parts}, captions)

# %% [markdown]
# **3.** How large must a difference be before these photos can tell it from chance? Compare variants
# with one seed and with two.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
ranked = ranking(judged, study, resamples)
half = (ranked["high"] - ranked["low"]) / 2  # two seeds add their own spread to that of photos
half = half.groupby(ranked["seeds"]).median().rename("half an interval, percentage points")
half.to_frame().style.format(precision=1)
