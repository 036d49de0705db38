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
# # Ablations of objective and training
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/09_ablations_training.ipynb)
#
# **Shows** what each choice in the objective and in training does, measured as in the
# [chapter before](08_ablations_mechanism.ipynb), from the same study.
#
# **Costs** seconds: this page reads records; each holds the command that makes it anew.
#
# **Data and model.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights, at 128
# pixels, trained on photos of Imagenette's training split {cite}`imagenette`, measured on 500
# photos of its validation split.

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

# %%
from ttame.companion.figures.studies import show_axis
from ttame.companion.notebook_profiles import quiet
from ttame.companion.studies.records import read_runs, study_provenance, unfinished
from ttame.companion.studies.study import read_study
from ttame.companion.studies.tables import run_scores
from ttame.files import shipped

quiet()
study = read_study(shipped("studies") / "ablations.toml")
folder = records or shipped("results") / "ablations"
long = run_scores(read_runs(folder))
left = unfinished(study, folder)
print(f"{len(study.runs) - len(left)} of {len(study.runs)} runs are there")
left if len(left) else None

# %% [markdown]
# *Where runs have no record, a table lists them: those that were not run, and those that failed,
# with their error. They are missing from all that follows.*
#
# ## Terms of the objective
#
# The objective ([method](../book/method.md)) adds to the cross-entropy of the masked photo the area
# and the variation of the map.

# %%
show_axis(long, study, "loss terms", resamples=resamples)

# %% [markdown]
# *Filled marks are means with 95 % intervals over photos and seeds, hollow ones the seeds' means.
# Only verdicts whose interval leaves zero out are listed. Without the area term nothing asks for a
# small mask, so AD with all pixels retained is no fair judge of those rows.*
#
# The variation is the term that matters: without it the scores are worse at every share of pixels,
# with the area or without. Leaving out the area alone makes no difference that can be told from
# chance at this length of training.
#
# ## Weights and exponent
#
# Each term's weight ten times smaller and ten times larger than published, and the exponent of the
# area.

# %%
show_axis(
    long, study, "area exponent", "weight of the cross-entropy", "weight of the area",
    "weight of the variation", resamples=resamples,
)  # fmt: skip

# %% [markdown]
# *As above, one seed.*
#
# The published weights lie in a flat valley: ten times less or more of the cross-entropy is worse,
# of the area at most a little, and more of the variation is rather better. The exponent of the
# area hardly matters.
#
# ## Which maps are regularised, and how
#
# The published code regularises, for every photo, the maps of all labels of its batch, and sums the
# variation over pixels; so that term grows with batch size and resolution. The alternatives: each
# photo's own map, and a mean.

# %%
show_axis(long, study, "regularised maps", "reduction of the variation", resamples=resamples)

# %% [markdown]
# *As above, one seed.*
#
# Regularising only the photo's own map is worse here: the other labels' maps, none of which is
# explained in that photo, tell the mechanism most about what is no support. With our own start
# from the classifier this difference is gone ([little data](05_little_data.ipynb)). A mean in place
# of the sum changes nothing that can be told from chance.
#
# ## Labels
#
# What is explained in training: the classifier's own answer (model truth), or the class that the
# photo belongs to (ground truth).

# %%
show_axis(long, study, "labels", resamples=resamples)

# %% [markdown]
# *As above, one seed.*
#
# The two labels agree on most photos of these ten classes, and so do the maps that come of them.
# The choice is one of meaning: the model truth explains what the classifier answers, mistakes
# included, and needs no labels.
#
# ## Masking space
#
# A mask can multiply the photo as it is, so that what is masked turns black, or the normalised
# photo, so that it turns grey, this classifier's mean. Training and measurement choose each for
# itself; the published code trains its transformer in one and measures in the other.

# %%
show_axis(long, study, "masking space", resamples=resamples)

# %% [markdown]
# *As above, one seed. Rows that are measured in different spaces answer different questions:
# compare within a space.*
#
# Black holes hurt this classifier more than grey ones, whatever the training: measured on black
# the same maps score worse at every share of pixels where AD is concerned. Training in the space
# of the measurement is a smaller matter, but the scores of two spaces must never be compared with
# each other.
#
# ## Where the fusion starts
#
# The published fusion starts from random numbers. It can also start from the classifier's own
# gradients, with rows that are free or tied to them ([method](../book/method.md)).

# %%
show_axis(long, study, "start of the fusion", resamples=resamples)

# %% [markdown]
# *As above.*
#
# The start is the largest lever of the whole study: rows that begin at the classifier's own
# gradients are ahead of what four times the training makes of random ones. Tying them costs a
# little on these ten classes, which training shows, and is what carries maps over to classes that
# it does not ([little data](05_little_data.ipynb)).
#
# ## Training length

# %%
show_axis(long, study, "training length", resamples=resamples)

# %% [markdown]
# *As above, one seed; each length has a learning-rate schedule of its own.*
#
# More steps help, with diminishing returns; none of these lengths is near the papers' hundreds of
# thousands.

# %%
study_provenance(folder).style
