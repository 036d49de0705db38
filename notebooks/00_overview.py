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
#
# [**Try it in your browser**](11_explore.ipynb), with photos of your own.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = ["german_shepherd", "giant_panda", "scarlet_macaw"]  # sample photos
compared_on = ["honey_bee", "ring_tailed_lemurs"]  # more of them, for the methods side by side

# %% tags=["remove-cell"]
import pandas as pd
from IPython.display import Markdown

import ttame
from ttame.companion.claims import claims
from ttame.companion.figures.architecture import plot_architecture
from ttame.companion.figures.masked import plot_masked
from ttame.companion.headline import (
    MEASURES,
    common_photos,
    headline,
    read_comparison,
    worth_showing,
)
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, read_benchmark, reference, training_record
from ttame.data import samples
from ttame.images import normalize
from ttame.methods import build
from ttame.plotting import plot_methods
from ttame.records import read_results

open_profile(profile)
path = {path.stem: path for path in samples().paths}
photos = [path[name] for name in [*shown, *compared_on]]
names = {
    "T-TAME": "T-TAME (our recipe)",
    "T-TAME (refined)": "T-TAME (our recipe, refined)",
    "T-TAME (published)": "T-TAME (as published)",
    "T-TAME (published with tied rows)": "T-TAME (as published, tied rows)",
}

# %%
explainer = ttame.load("tf_efficientnet_lite0")
explanation = explainer.explain(photos)
images = normalize(explanation.images, explainer.spec)
targets = explanation.targets[:, 0]
few = slice(len(shown))
own = {"T-TAME": explanation.maps[few]}
plot_masked(explainer, images[few], targets[few], own, [15])

# %% [markdown]
# *Photos with the class that the classifier predicts and its probability p; the explanation map,
# laid over them; and the 15 % of the pixels that the map ranks highest, with what is left of the
# probability, p'. The dog and the panda are still recognised. The macaw is not: it is spread over
# more of the photo than 15 % show.*
#
# ## Three claims

# %% tags=["remove-input"]
Markdown(claims())

# %% [markdown]
# ## How it works

# %% tags=["hide-input"]
plot_architecture(ttame.load("tf_efficientnet_lite0_published_tied"), path["honey_bee"])

# %% [markdown]
# *The mechanism as published, on three layers of an EfficientNet-Lite0 {cite}`efficientnet`, with
# class rows that are tied to the classifier's own. Only branches and fusion are trained. Heat:
# the channel that adds most to the class, before and after its branch; red speaks for the class,
# blue against it. Shapes are channels × height × width. The explainer of the first figure reads
# the deepest layer alone, without a branch, and hands the fused map to a small decoder. [The
# attention mechanism](03_attention_mechanism.ipynb) goes through every step.*
#
# The mechanism learns from one question: does the classifier keep its answer when it sees only
# what the map lets through? Its own answers are the labels, so photos are all that training
# needs. It works for convolutional networks and Vision Transformers alike.
#
# ## Beside other methods

# %%
methods = ["T-TAME", "T-TAME (published)", "Grad-CAM", "Layer-CAM", "L-CAM-Fm", "random"]
maps = {names.get(name, name): build(name, explainer)(images, targets)
        for name in methods}  # fmt: skip
plot_methods(explanation.images, maps, [found[0] for found in explanation.names()])

# %% [markdown]
# *The same photos and classes under the maps of several methods: Grad-CAM {cite}`gradcam`,
# Layer-CAM {cite}`layercam`, L-CAM-Fm {cite}`lcam` and a random map. T-TAME (as published) and
# L-CAM-Fm learn a row of weights for each class from photos of that class, and training showed
# these classes rarely or never.*
#
# ## In three lines
#
# ```python
# import ttame
#
# explanation = ttame.load("tf_efficientnet_lite0").explain("cat.jpg")
# explanation.plot()
# ```
#
# [The recipes](../book/recipes.md) have ten lines each for explaining a classifier of your own,
# training on your photos, comparing methods and reproducing a table.
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
    .rename(index=names)
    .style.format(precision=1, na_rep="–")
    .format(precision=0, subset="passes")
    .highlight_max(subset=measures, props="font-weight: bold")
)

# %% [markdown]
# *Five measures in percent, higher is better; rows in order of mean rank. No map that looks at
# neither the photo nor the class won any of them. Shown are T-TAME and its variants, Grad-CAM, and
# every method measured on these photos that is ahead of our recipe in one of them; [the method
# page](../book/method.md) says what each does. `passes`: runs of the classifier that one map takes;
# `time`: in units of a plain forward pass, a dash where it was not measured; bold: the best of a
# column. Average Drop, the papers' score, is left out: a map that
# looks at nothing wins it, and our recipe trains for it. [Evaluation](06_evaluation.ipynb) has all
# methods and scores, with intervals, and says what each score can be trusted for.*

# %% tags=["remove-input"]
record = training_record("tf_efficientnet_lite0")
(alone,) = [
    row for row in benchmark["rows"] if row["backbone"] == record["backbone"] and row["batch"] == 1
]
first = comparison.headers["imagenette_main.jsonl"]["config"]
older = benchmark["date"] < record["date"]
short = pd.DataFrame(read_benchmark(reference("quality.json"), "quality")["rows"])
short = short[short["score"].str.match("AD|IC") & (short["verdict"] == "better")]
ahead = short.groupby(["minutes", "data"]).size().unstack(fill_value=0)
enough = ahead[(ahead >= 5).all(axis=1)].index.min()
Markdown(
    f"Measured on {common_photos(comparison)} photos of {first['data']} that all methods saw, "
    f"grid pointing on mosaics, with {first['backbone']}; read from committed results."
)

# %% [markdown]
# ## What it costs

# %% tags=["remove-input"]
Markdown(
    f"- **Training, once for a classifier:** {record['minutes']:.0f} minutes on "
    f"{record['hardware']}, for {record['photos']:,} photos in {record['steps']} steps. {enough:.1f} "
    "minutes are enough to be ahead of Grad-CAM in five of the six scores of Average Drop and "
    "Increase in Confidence, on Imagenette and on kinds of things that training never showed "
    "([GPU training](04_training.ipynb)).\n"
    f"- **An explanation:** {alone['ratio']:.2f} × a plain forward pass of the classifier, "
    f"which the prediction needs anyway ({alone['explanation_ms']:.1f} ms in place of "
    f"{alone['forward_ms']:.1f} ms for one photo on {benchmark['hardware']})."
    + (" Timed before this explainer, whose decoder adds to it." if older else "")
)

# %% [markdown]
# ## Where to go next
#
# - [Four tasks, ten lines each](../book/recipes.md): explain your classifier, train on your photos,
#   compare methods, reproduce a table.
# - [Quickstart](01_quickstart.ipynb): explain a photo in one line, any class, many photos.
# - [The method](../book/method.md): mechanism, objective and scores, with every equation.
# - Ablations of [the mechanism](08_ablations_mechanism.ipynb) and of [objective and
#   training](09_ablations_training.ipynb): what each part does.
# - [Look for yourself](11_explore.ipynb): drop a photo of your own, pick any class, and let the
#   network explain it in your browser.
# - [Take it with you](14_take_it_with_you.ipynb): the explainer in one file, for a phone, a server
#   without Python or a page.
# - [Drawn objects](13_drawn_objects.ipynb): do maps know which parts matter?
# - [Your own classifier](10_your_own_classifier.ipynb): attach a mechanism, train it in a minute,
#   and see what can go wrong.
# - [Reproduce it](../book/reproduce.md): run everything yourself. [Every number and its
#   command](15_reproduce.ipynb) lists what is measured, and how.
# - [Where maps mislead](12_failure_cases.ipynb) and [limitations](../book/limitations.md): what
#   these maps do not tell.
#
# The [glossary](../book/glossary.md) explains the words, [the API pages](../book/api.md) the
# library. The rocket at the top of a page opens it in Colab or Binder.
#
# This is an independent implementation from the papers' text, under the Apache-2.0 licence. It
# contains none of the authors' code, and where it departs from the publications it says so. Every
# number in this book is measured while the book is built, or read from a result file that names
# the command, the data and the commit it comes from. These are the sources of this page:

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
others = {
    f"{data}_val{part}.jsonl": read_results(reference(f"{data}_val{part}.jsonl"))[0]
    for data in ("imagenette", "kinds")
    for part in ("", "_cam")
}
others["quality.json"] = read_benchmark(reference("quality.json"), "quality")
provenances(
    {**comparison.headers, **others, "benchmark.json": benchmark, "training record": record}
).style
