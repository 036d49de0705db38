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
# # Every number and its command
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/15_reproduce.ipynb)
#
# **Shows** each table of this book and of the papers' kind: the command, the profile, the time it
# took, our value, and an empty column for the published one, which a reader with the papers
# {cite}`tame,ttame` can fill in. [Reproduce it](../book/reproduce.md) says how to set up and run.
#
# **Costs** seconds: this page reads records.
#
# **Data and model.** The training records, results files and study records that come with `ttame`.
# `imagenette` {cite}`imagenette` is the scale at which they were made; the papers' scale,
# `imagenet`, was not run here. Their tables are of other classifiers on other photos: published
# values and ours stand side by side for orientation and need not agree.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
records = None  # folder that holds a folder of records for each study; None: those that ship

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display

from ttame.companion.notebook_profiles import open_profile
from ttame.companion.reproduction import (
    ablation_table,
    benchmark_table,
    evaluation_table,
    progress_table,
    score_table,
    studies,
    training_table,
)

open_profile(profile)
pd.set_option("display.max_rows", None)
folder = Path(records) if records else None
patterns = {"EfficientNet-Lite0": "imagenette_val*.jsonl", "Transformer": "vit_*.jsonl"}

# %% [markdown]
# ## Scores of the methods
#
# AD, IC and ROAD in percent, joined by dots in the order of the heading; ROAD is the area under
# the curve of the share of photos that keep their class. `passes` are those of one map. Methods
# with fewer photos saw the first of the same ones.

# %% tags=["hide-input"]
for title, pattern in patterns.items():
    display(Markdown(f"**{title}**"), score_table(pattern))

# %% [markdown]
# Their commands, as recorded; the methods are compared in [the evaluation
# notebook](06_evaluation.ipynb) and in [that on transformers](07_vision_transformers.ipynb).

# %% tags=["hide-input"]
evaluation_table([*patterns.values(), "every_metric/*.jsonl"])

# %% [markdown]
# ## What training took

# %% tags=["hide-input"]
training_table()

# %% [markdown]
# *`ttame train --dry-run` with the same arguments prints what a run will take on your machine.*
#
# ## Ablations
#
# A study is a file of variants; each of its runs is one training and its measurement, which leaves
# a record.

# %% tags=["hide-input"]
progress_table(studies(), folder)

# %% [markdown]
# *Runs whose record is there, of those that the study asks for; minutes of training summed up from
# the records, without the measurement.*

# %% tags=["hide-input"]
for name in studies():
    display(Markdown(f"**`{name}`**"), ablation_table(name, folder))

# %% [markdown]
# *Axis by axis; means over photos and runs. Where a study shows half of the classes in training,
# these are means over classes seen and unseen; [the notebook on little data](05_little_data.ipynb)
# keeps them apart.*
#
# ## Costs and checks
#
# What an explanation and a training step cost, how training scales, and which networks can be
# attached to.

# %% tags=["hide-input"]
benchmark_table()

# %% [markdown]
# ## Figures
#
# Every figure of this book is drawn by the notebook that it stands in, from the records above or
# from what that notebook measures. One notebook alone is run anew by
#
# ```console
# $ .venv/bin/python -m ttame.companion.notebooks execute notebooks/06_evaluation.py out.ipynb
# ```
