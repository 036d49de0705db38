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
# **Shows** what each part of the mechanism does: variants that differ from the published one in
# exactly one thing are trained and measured alike. The [next chapter](09_ablations_training.ipynb)
# does the same for objective and training.
#
# **Costs** seconds: this page reads records. Each record is one training and its measurement, and
# holds the command that makes it anew; the table at the end says how long all of them took.
#
# **Data and model.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights, at 128
# pixels; for the transformer axes the small transformer that was trained in this project, at 224.
# Trained on photos of Imagenette's training split {cite}`imagenette`, measured on 500 photos of its
# validation split.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
records = None  # folder with the study's records; None: those that ship
resamples = 1000  # of photos and seeds, for intervals

# %% [markdown]
# ## The study is data
#
# One file, `data/studies/ablations.toml`, lists every variant: its axis, what it changes, its seeds
# and its budget. A row that changes two things at once is refused, unless it names the row that it
# changes further. An axis always has one row that changes nothing: the published mechanism and
# objective, from a random start.

# %%
import pandas as pd

from ttame.companion.figures.studies import plot_ranking, show_axis
from ttame.companion.notebook_profiles import quiet
from ttame.companion.studies.records import read_runs, study_provenance, unfinished
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import check_claims, ranking, run_scores, study_table
from ttame.files import shipped

quiet()
study = read_study(shipped("studies") / "ablations.toml")
folder = records or shipped("results") / "ablations"
pd.DataFrame(
    {"what all runs share": {key: str(value) for key, value in vars(study.budget).items()}}
)

# %% tags=["scroll-output"]
pd.set_option("display.max_rows", None, "display.max_colwidth", None)
study_table(study.variants)

# %% [markdown]
# *Every row of the study. Rows of the transformer axes have a budget of their own, named behind
# "with".*
#
# One command runs what has no record yet, several runs side by side where there are cores for them;
# it can be stopped at any time and goes on where it was. Other executors of Snakemake
# {cite}`snakemake` spread the same runs over a cluster.
#
# ```console
# $ snakemake --cores 2 ablations
# $ snakemake --profile profiles/slurm ablations
# ```

# %%
runs = read_runs(folder)
left = unfinished(study, folder)
print(f"{len(study.runs) - len(left)} of {len(study.runs)} runs are there")
left if len(left) else None

# %% [markdown]
# *Where runs have no record, a table lists them: those that were not run, and those that failed,
# with their error. They are missing from all that follows.*
#
# ## All variants at a glance

# %%
long = run_scores(runs)
plot_ranking(ranking(long, study, resamples))

# %% [markdown]
# *Every variant of both chapters against the row of its axis that changes nothing. The score is IC
# minus AD, averaged over 100, 50 and 15 % of retained pixels; right of zero the variant is better.
# Lines are 95 % intervals over photos, and over seeds where there are two; the budget is short, so
# what is better here learns faster, and need not be better in the end.*
#
# ## What the authors say
#
# The papers' tables were not at hand. Their repositories hold remarks on what helped, and each can
# be compared with a pair of rows:

# %%
check_claims(long, study, resamples).set_index("claim")

# %% [markdown]
# *Measured: by how many percentage points the row that is said to be better is better here, with
# the 95 % interval over photos and seeds. "open": the interval holds zero. The remarks are about
# VGG-16 and ResNet-50 on ImageNet, trained for many times longer.*
#
# ## Architecture
#
# A branch is a 1×1 convolution, batch norm, the branch's input added (the skip connection), and a
# ReLU. Each can be left out; without all of it the fusion reads the feature maps as they are, a
# multi-layer L-CAM {cite}`lcam`.

# %%
show_axis(long, study, "architecture", resamples=resamples)

# %% [markdown]
# *Filled marks are means with 95 % intervals over photos and seeds, hollow ones the seeds' means.
# Only verdicts whose interval leaves zero out are listed.*
#
# With little training the full branch is the slowest to learn: leaving out the skip connection
# helps most, alone or with batch norm, and widening the branch to the class count adds nothing to
# that, so what the published code calls "no skip connection" owes its effect to the skip
# connection and not to the width. A sigmoid or no activation in place of the ReLU helps as well.
# Batch norm alone makes no difference that can be told from chance.
#
# ## Layers
#
# How many layers, and which. In this network strides do what pooling does in VGG: the published
# choice of a layer before or after pooling becomes one of the last block before a stride, or the
# first one behind it.

# %%
show_axis(long, study, "layers", resamples=resamples)

# %% [markdown]
# *As above. The layers are listed in the table of the study.*
#
# Depth matters more than number: the one deepest layer is ahead of three, and every choice that
# brings in earlier maps is worse, the earliest by far. Several layers are a promise of finer maps
# that a short training from a random start cannot keep.
#
# ## Resolution
#
# The layers' maps are brought to the size of the largest of them, or of the smallest.

# %%
show_axis(long, study, "resolution", resamples=resamples)

# %% [markdown]
# *As above, one seed.*
#
# Bringing maps to the smallest size is no worse here, rather better: at 128 pixels the smallest
# map has four by four cells, and coarse maps are hard to get wrong. This says little about 224
# pixels and long training.
#
# ## The map that is read
#
# The mechanism is trained through a sigmoid. Its explanation map is read before it and scaled by
# its own minimum and maximum; the sigmoid would leave the order of pixels as it is, but not their
# weights.

# %%
show_axis(long, study, "inference map", resamples=resamples)

# %% [markdown]
# *As above; the two rows are the same training.*
#
# Read behind the sigmoid, a map keeps its order and more of its pixels near one, so that with all
# pixels retained far less of the photo is dimmed; with 15 % retained, where order is what counts,
# the gain is small. AD and IC reward bright maps.
#
# ## Transformers
#
# Three questions about a transformer's tokens: which of a block's outputs is read, whether branches
# should mix places by self-attention instead of channels by convolution, and what becomes of the
# class token.

# %%
show_axis(
    long, study, "transformer layers", "transformer branches", "class token",
    resamples=resamples,
)  # fmt: skip

# %% [markdown]
# *As above, one seed, the transformer that this project trained on the ten classes of Imagenette.*
#
# Block inputs are better than block outputs, and several blocks better than one where 15 % of the
# pixels are retained. Self-attention in the branches changes nothing that can be told from chance,
# at a higher cost. Multiplying by the class token makes maps worse.
#
# ## How far to trust this
#
# One network, one data set of ten classes, few steps, one or two seeds: the study ranks what helps
# a mechanism that starts from nothing and has little time. The same file runs with more steps, at
# full resolution or on another classifier by changing its budget.

# %%
study_provenance(folder).style
