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
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/15_reproduce.ipynb)
#
# **You will learn**
#
# - where each number of this book comes from, and the command that makes it anew;
# - what was run here, and what was not;
# - how to put the papers' own values beside ours.
#
# **It costs** about 20 seconds and 1.5 GB of memory on one CPU core; nothing is downloaded, and
# nothing is run: this page reads records.
#
# **Model and photos.** The training records, results and study records that come with `ttame`. They
# were made at the scale of Imagenette {cite}`imagenette`. The papers' scale {cite}`tame,ttame`,
# with
# other classifiers on ImageNet's photos, was not run here. [Reproduce it](../book/reproduce.md)
# says
# how to set up and run.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
records = None  # folder that holds a folder of records for each study; None: those that ship

# %% tags=["hide-input"]
from pathlib import Path

from IPython.display import Markdown, display

from ttame.companion.notebook_profiles import open_profile
from ttame.companion.reproduction import (
    ablation_table,
    benchmarks,
    command_list,
    evaluations,
    progress,
    score_table,
    studies,
    trainings,
)

open_profile(profile)
folder = Path(records) if records else None

# %% [markdown]
# ## Scores of the methods
#
# The papers' main table, on our classifiers. AD, IC and ROAD are in percent.

# %%
patterns = {
    "EfficientNet-Lite0": "imagenette_val*.jsonl",
    "Transformer of ten classes": "vit_imagenette*.jsonl",
}
for title, pattern in patterns.items():
    display(Markdown(f"**{title}**"), score_table(pattern))

# %% [markdown]
# *The numbers in a cell are in the order of the heading. ROAD is the area under the curve of the
# share of photos that keep their class; passes are those of one map. Where photos are fewer, they
# are
# the first of the same ones. What they mean is discussed in [the
# evaluation](06_evaluation.ipynb) and of [the chapter on
# transformers](07_vision_transformers.ipynb).*
#
# This is how the first of these files was made. All the others are folded below.

# %%
made = evaluations(["*.jsonl", "every_metric/*.jsonl"])
first = [item for item in made if item.name.startswith("imagenette_val.jsonl")]
Markdown(command_list(first))

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all commands", "code_prompt_hide": "Hide the commands"}
Markdown(command_list(item for item in made if item not in first))

# %% [markdown]
# *For each file: how many photos, how long the maps took, the commit, the day and the machine, and
# the whole command. It gives these numbers at that commit: files called `recipe_...` measured
# explainers that have been replaced since. A `+` marks a commit with changes not yet committed.*
#
# ## Trainings
#
# Each model that ships has a record beside it. Those marked "not run" are the papers' own settings.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all commands", "code_prompt_hide": "Hide the commands"}
Markdown(command_list(trainings()))

# %% [markdown]
# *`ttame train --dry-run` with the same arguments prints what a run will take on your machine.*
#
# ## Studies
#
# A {term}`study <Study>` is a file of {term}`variants <Variant>`; each of its runs is one training
# and its measurement, and leaves a record.

# %% tags=["hide-input"]
Markdown(command_list(progress(studies(), folder)))

# %% [markdown]
# *Runs whose record is there, of those that the study asks for; minutes of training summed up from
# the records, without the measurement. The same command runs what is missing.*

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all tables", "code_prompt_hide": "Hide the tables"}
for name in studies():
    display(Markdown(f"**`{name}`**"), ablation_table(name, folder).style)

# %% [markdown]
# *All studies, variant by variant; means over photos and runs. Where a study shows half of the
# classes in training, these are means over classes seen and unseen; [the chapter on little
# data](05_little_data.ipynb) keeps them apart.*
#
# ## Costs and checks
#
# What an explanation and a training step cost, how training scales, and which networks it can be
# attached to.

# %% tags=["hide-input"]
Markdown(command_list(benchmarks()))

# %% [markdown]
# *Every figure of this book is drawn by the chapter that it stands in, from the records above or
# from what that chapter measures.*
#
# ## What to remember
#
# - A number without its command, commit and machine cannot be checked; here each has them.
# - What was not run says so. The papers' tables are of other classifiers on other photos, and need
#   not agree with these.
# - To run one chapter again:
#
#   ```console
#   $ .venv/bin/python -m ttame.companion.notebooks execute notebooks/06_evaluation.py out.ipynb
#   ```
#
# ## Exercises
#
# **1.** Which command measured RISE on EfficientNet-Lite0, on how many photos, and how long did its
# maps take?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
Markdown(command_list(item for item in made if item.name.startswith("imagenette_val_rise")))

# %% [markdown]
# **2.** You have the papers at hand. Put a published value beside ours. (In this example it comes
# from the authors' public code, which asks RISE for 8,000 masks.)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
published = {"RISE": {"passes forward · backward": "8000 · 0"}}
score_table("imagenette_val_rise.jsonl", published)
