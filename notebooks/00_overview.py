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
# # T-TAME, the reproducible companion
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/00_overview.ipynb)
#
# An image classifier says *what* it sees. T-TAME {cite}`ttame`, like TAME {cite}`tame` before it,
# shows *where*: a small attention mechanism, trained once beside the frozen classifier, turns its
# feature maps into one map per class, in the same forward pass that makes the prediction.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = "honey_bee"  # a sample photo

# %% tags=["remove-cell"]
import pandas as pd
from IPython.display import Markdown

import ttame
from ttame.companion.headline import (
    MEASURES,
    common_photos,
    headline,
    read_comparison,
    worth_showing,
)
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, read_benchmark, reference, training_record
from ttame.data import samples

setting = open_profile(profile)
(photo,) = [path for path in samples().paths if path.stem == shown]

# %%
ttame.load(setting.backbone).explain(photo).plot()

# %% [markdown]
# *A photo as the classifier sees it, and the explanation map of the class that it predicts, laid
# over it. Bright places support that class; the number is its probability.*
#
# The mechanism learns from one question: does the classifier keep its answer when it sees only
# what the map lets through? Its own answers are the labels, so photos are all that training
# needs. It works for convolutional networks and Vision Transformers alike.
#
# ## How good the maps are

# %% tags=["hide-input"]
comparison = read_comparison("Imagenette")
table = worth_showing(headline(comparison))
measures = [name for name in MEASURES if name in table]
table["passes"] = table["forward"] + table["backward"]
benchmark = read_benchmark(reference("benchmark.json"))
timed = pd.DataFrame(benchmark["methods"]).set_index("method")
(
    table[[*measures, "passes"]]
    .assign(time=timed["ratio"])
    .style.format(precision=1, na_rep="–")
    .format(precision=0, subset="passes")
    .highlight_max(subset=measures, props="font-weight: bold")
)

# %% [markdown]
# *Five measures that no map wins which looks at neither photo nor class, in percent, higher is
# better: [the test of the tests](06_evaluation.ipynb) says why these, and what each can be trusted
# for. Best mean rank over the measures first; every method is shown that is ahead of T-TAME in one
# of them. `T-TAME` is the explainer that ships, by our recipe; `T-TAME (published)` the papers'
# mechanism and objective, trained on the same photos. `passes`: runs of the classifier, forward
# and backward, that one map takes. `time`: of one photo alone, divided by that of a plain forward
# pass; a dash: not measured. Bold: the best of a column. [The evaluation
# notebook](06_evaluation.ipynb) has all methods and scores, Average Drop and Increase in
# Confidence among them, with intervals.*

# %% tags=["remove-input"]
record = training_record("tf_efficientnet_lite0")
(alone,) = [
    row for row in benchmark["rows"] if row["backbone"] == record["backbone"] and row["batch"] == 1
]
first = comparison.headers["imagenette_main.jsonl"]["config"]
older = benchmark["date"] < record["date"]
Markdown(
    f"Measured on {common_photos(comparison)} photos of {first['data']} that all methods saw, "
    f"grid pointing on mosaics, with {first['backbone']}; read from committed results.\n\n"
    "## What it costs\n\n"
    f"- **Training, once for a classifier:** {record['minutes']:.0f} minutes on "
    f"{record['hardware']}, {record['photos']:,} photos, {record['steps']} steps.\n"
    f"- **An explanation:** {alone['ratio']:.2f} × a plain forward pass of the classifier, "
    f"which the prediction needs anyway ({alone['explanation_ms']:.1f} ms in place of "
    f"{alone['forward_ms']:.1f} ms for one photo on {benchmark['hardware']})."
    + (" Timed before this explainer, whose decoder adds to it." if older else "")
)

# %% [markdown]
# ## Where to go next
#
# - [Quickstart](01_quickstart.ipynb): explain a photo in one line, any class, many photos.
# - [The method](../book/method.md): mechanism, objective and scores, with every equation.
# - Ablations of [the mechanism](08_ablations_mechanism.ipynb) and of [objective and
#   training](09_ablations_training.ipynb): what each part does.
# - [Look for yourself](11_explore.ipynb): drop a photo of your own, pick any class, and let the
#   network explain it in your browser.
# - [Take it with you](14_take_it_with_you.ipynb): the explainer in one file, for a phone, a server
#   without Python or a page.
# - [Drawn objects](13_drawn_objects.ipynb): do maps know which parts matter?
# - [Your own classifier](10_your_own_classifier.ipynb): attach it to a network of your own.
# - [Reproduce it](../book/reproduce.md): run everything yourself. [Every number and its
#   command](15_reproduce.ipynb) lists what is measured, beside room for the published values.
# - [Limitations](../book/limitations.md) and [failure cases](12_failure_cases.ipynb): what these
#   maps do not tell.
#
# The [glossary](../book/glossary.md) explains the words, [the API pages](../book/api.md) the
# library. The rocket at the top of a page opens it in Colab or Binder.
#
# This is an independent implementation from the papers' text, under the Apache-2.0 licence. It
# contains none of the authors' code, and where it departs from the publications it says so. Every
# number in this book is measured while the book is built, or read from a result file that names
# the command, the data and the commit it comes from. Those of this page:

# %% tags=["hide-input"]
headers = {**comparison.headers, "benchmark.json": benchmark, "training record": record}
origins = [provenance_table(header)["provenance"] for header in headers.values()]
pd.concat(origins, axis=1, keys=list(headers)).style.format(na_rep="–")
