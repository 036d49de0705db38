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
# # Drawn objects with known parts
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/13_drawn_objects.ipynb)
#
# **Shows** whether explanation maps know which parts of an object matter, where that is known
# exactly: creatures drawn by a program, which can be drawn again without any of their parts, in the
# spirit of FunnyBirds {cite}`funnybirds`.
#
# **Costs** about a minute on one CPU core; nothing is trained or downloaded.
#
# **Data and model.** Drawings of `ttame.evaluation.drawings`, made on the spot; `drawn_cnn`, a
# network of five convolutions that ships with `ttame`, and its shipped explainer. The scores are
# those of a committed record.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
shown = 4  # drawings
first = 0  # position of the first one in the validation split

# %%
import pandas as pd
import torch

import ttame
from ttame.classifiers.drawn import PARTS, class_words
from ttame.companion.figures.parts import plot_removals
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, reference, training_record
from ttame.evaluation.drawings import drawing
from ttame.evaluation.parts import part_intervals
from ttame.images import normalize, to_batch
from ttame.methods import build
from ttame.plotting import plot_methods
from ttame.records import read_results

# %% [markdown]
# ## Creatures of five parts
#
# Beak, crest, wing, tail and feet have four variants each. A class is a choice of variants, and its
# name spells them, a syllable per part. Body, pose, colours and clutter say nothing of the class.

# %%
open_profile(profile)
explainer = ttame.load("drawn_cnn")
words = pd.DataFrame(class_words(), index=explainer.classes, columns=PARTS)
words.head(shown)

# %% [markdown]
# *The variants of the first classes; any two classes differ in at least two parts. The classifier
# was trained on drawings of which half had parts missing, so that a drawing without a part is
# nothing that it has never seen. Its accuracy on validation drawings:*

# %%
record = training_record("drawn_cnn", "classifiers")
pd.Series({name: record[name] for name in record if name.startswith("top1")}).to_frame("percent")

# %% [markdown]
# ## What a part is worth
#
# To take a part away, the drawing is drawn again without it: all other pixels stay the same. What
# the logit of the class loses is the importance of the part, with nothing to impute.

# %%
drawings = [drawing("val", first + index) for index in range(shown)]
plot_removals(explainer, drawings)

# %% [markdown]
# *Drawings of four classes: whole, without each part, and without the clutter, with the change of
# the class's logit. What to see: a part may be worth much in one drawing and nothing in another,
# and so may the clutter as a whole, which no class depends on. Piece by piece it is worth little:*

# %%
header, records = read_results(reference("drawn_val_parts.jsonl"))
once = records.drop_duplicates("photo")
kinds = {
    "a part": "importance",
    "two parts": "pairs",
    "a piece of clutter": "clutter",
    "all clutter": "background",
}
changes = {name: once[column].explode().astype(float).abs() for name, column in kinds.items()}
table = pd.DataFrame({name: values.describe() for name, values in changes.items()})
table.loc[["mean", "50%", "max"]].T.round(2)

# %% [markdown]
# *Size of the change of the logit by what is removed, over all drawings of the record below.*
#
# ## Maps of the same drawings

# %%
raw = to_batch([found.render() for found in drawings], explainer.spec)
targets = torch.tensor([found.label for found in drawings])
names = ("T-TAME", "Grad-CAM", "Layer-CAM", "RISE", "Integrated Gradients")
settings = {"RISE": {"masks": 400}}
methods = {name: build(name, explainer, settings.get(name)) for name in names}
given = normalize(raw, explainer.spec)
maps = {name: method(given, targets) for name, method in methods.items()}
plot_methods(raw, maps, [explainer.classes[target] for target in targets])

# %% [markdown]
# *Maps of the class by several methods. Compare them with the changes above: a map that knows what
# matters is brightest on the part whose removal costs most.*
#
# ## How well maps foretell the importance
#
# - **part correlation**: Spearman's correlation between the means of the map over the five parts
#   and what their removal costs; **pair correlation**: the same of the ten pairs of parts.
# - **background independence**: how often a part that matters has a larger mean than clutter whose
#   removal changes nothing (less than 5 % of the most important part), percent.
# - **target sensitivity**: how often the map of class A prefers the parts that speak for A over B
#   more than the map of B does, percent; B shares as many parts with A as any class.
# - **pointing** and **energy**: whether the map's peak lies on the creature, and which share of the
#   map does, percent.
#
# A constant map scores 0 in the correlations and 50 in the two comparisons, and points at one
# pixel that is drawn by lot and the same in all drawings.

# %%
table = part_intervals(records)
order = {"index": records["method"].unique(), "columns": table["score"].unique()}
scores = table.pivot(index="method", columns="score", values="mean").reindex(**order)
scores.round(2)

# %% [markdown]
# *Means over the drawings of the record below. The last rows are blind: they do not know the class,
# nor what is drawn. Half the width of the 95 % intervals, over drawings:*

# %%
table["half width"] = (table["high"] - table["low"]) / 2
table.pivot(index="method", columns="score", values="half width").reindex(**order).round(2)

# %%
provenance_table(header).style
