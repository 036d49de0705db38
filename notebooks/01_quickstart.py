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
# # Quickstart
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/01_quickstart.ipynb)
#
# **You will learn**
#
# - how one line shows where an image classifier sees what it sees;
# - how to ask for any class by name, and what speaks for one class rather than another;
# - what the numbers in a map mean, and how to save maps;
# - what an explanation costs.
#
# **It costs** about 20 seconds and 1.5 GB of memory on one CPU core. Nothing is downloaded.
#
# **Model and photos.** The sample photos that come with `ttame`, and an EfficientNet-Lite0
# {cite}`efficientnet` with its ImageNet weights, explained by the mechanism that ships for it:
# T-TAME (our recipe).

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = ["german_shepherd", "scarlet_macaw", "photographer"]  # sample photos

# %% tags=["hide-input"]
import tempfile

import pandas as pd
from IPython.display import Markdown

import ttame
from ttame.classifiers.classes import short_name
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.training import plot_bars
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, read_benchmark, reference
from ttame.data import samples
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.tables import read_together, scores
from ttame.plotting import plot_grid

open_profile(profile)
path = {path.stem: path for path in samples().paths}

# %% [markdown]
# ## One line

# %%
ttame.load("tf_efficientnet_lite0").explain(path["cat"]).plot()

# %% [markdown]
# *The photo as the classifier sees it, and its {term}`explanation map <Explanation map>` laid over
# it. Bright places support the predicted class; the number is its probability.*
#
# `path["cat"]` is a file. Photos may be of any size and come as paths, Pillow images, arrays or
# tensors, one or many, or as a whole folder.
#
# What has been loaded is an {term}`explainer <Explainer>`: a frozen classifier together with a small
# {term}`attention mechanism <Attention mechanism>` that was trained on it once. The mechanism reads
# {term}`feature maps <Feature map>` of the classifier in the same forward pass that makes the
# prediction.

# %%
explainer = ttame.load("tf_efficientnet_lite0")
print(f"classifier   {explainer.spec.name}, {len(explainer.classes)} classes")
print(f"reads        {', '.join(explainer.layers)}")
print(f"trained on   {explainer.record['photos']:,} photos, without labels")

# %% [markdown]
# ## Several photos, several classes
#
# `top_k` asks for the most probable classes of each photo.

# %%
explanation = explainer.explain([path[name] for name in shown], top_k=3)
explanation.plot()

# %% [markdown]
# *Sample photos in rows; in columns the three most probable classes with their maps. The maps show
# what each guess rests on, however improbable.*
#
# ## Any class, by name
#
# A map can be asked for whether or not the classifier predicts its class. A class is an ImageNet
# name, any of its synonyms, or an index.

# %%
both = explainer.explain(path["honey_bee"], [["bee", "daisy"]])
both.plot()

# %% [markdown]
# *One photo, two classes: the bee, and a daisy, which the classifier gives no chance. The first map is
# brightest on the insect, the second on the flower.*
#
# Both maps are made of the same features, so their difference says which places speak for one class
# rather than for the other:

# %%
bee, daisy = both.maps[0]
pictures = [("photo", both.images[0]), ("bee − daisy", bee - daisy)]
plot_grid([pictures], signed=True, what="A bee, and the difference of two maps")

# %% [markdown]
# *Difference of the two raw maps: red speaks for the bee rather than the daisy, blue for the daisy
# rather than the bee.*
#
# Misspell a class and the error suggests close matches:

# %%
try:
    explainer.explain(path["cat"], "taby")
except ttame.TTameError as error:
    print(error)

# %% [markdown]
# ## What a map is
#
# An explanation holds the map as the mechanism puts it out, at its own resolution. For display and
# for every score each map is scaled to its own range and enlarged to the photo.

# %%
cat = explainer.explain(path["cat"], "tabby")
raw, scaled = cat.maps[0, 0], cat.normalized()[0, 0]
enlarged, laid = cat.upsampled()[0, 0], cat.overlay()[0, 0]

# %% tags=["hide-input"]
height, width = raw.shape
plot_grid(
    [
        [
            ("photo", cat.images[0]),
            (f"maps: {height}×{width}\n{raw.min():.2f} to {raw.max():.2f}", raw),
            (f"normalized()\n{scaled.min():.0f} to {scaled.max():.0f}", scaled),
            (f"upsampled()\n{enlarged.shape[0]}×{enlarged.shape[1]}", enlarged),
            ("overlay()", laid),
        ]
    ],
    what="A photo of a cat and one map of it in four forms",
)

# %% [markdown]
# *The same map of the class “tabby” in its four forms, with sizes and ranges.*
#
# ## Saving
#
# `save` writes one overlay for each photo and class. The figures of this page are ordinary
# matplotlib figures with `savefig`.

# %%
with tempfile.TemporaryDirectory() as folder:
    written = explanation.save(folder, shown)
    print(*[item.name for item in written[:3]], "...", sep="\n")

# %% [markdown]
# ## How good are the maps?
#
# A good map shows what the classifier needs. {term}`Average Drop` (AD) asks how much of the class's
# probability is lost when only the best 100, 50 or 15 % of the pixels are left,
# {term}`Increase in Confidence` (IC) on how many photos it even rises. Beside Grad-CAM
# {cite}`gradcam`, the most used method without training, and T-TAME (as published):

# %% tags=["hide-input"]
committed = ["imagenette_val.jsonl", "imagenette_val_published.jsonl", "imagenette_val_cam.jsonl"]
headers, records = read_together(*[reference(name) for name in committed])
chosen = records[records["method"].isin(["T-TAME", "T-TAME (published)", "Grad-CAM"])]
names = {"T-TAME": "T-TAME (our recipe)", "T-TAME (published)": "T-TAME (as published)"}
long = scores(chosen.replace({"method": names}))
long = long[long["score"].str.match("AD|IC")]
differences = paired_differences(long, "T-TAME (our recipe)")
plot_differences(differences, "T-TAME (our recipe)")

# %% [markdown]
# *T-TAME (our recipe) minus each of the two, photo by photo, on photos of Imagenette
# {cite}`imagenette`: right of zero, our recipe is ahead. Bars are 95 % intervals over photos; grey:
# no difference is shown.*

# %% tags=["remove-input"]
Markdown(
    in_words(differences, "T-TAME (our recipe)")
    + "\n\nOur recipe is trained for these scores, so others should be asked as well. "
    "[Evaluation](06_evaluation.ipynb) does that, for every method."
)

# %% [markdown]
# ## What does an explanation cost?
#
# The {term}`floor <Floor>` is one plain forward pass of the classifier, which the prediction needs
# anyway.

# %% tags=["hide-input"]
benchmark = read_benchmark(reference("benchmark.json"))
rows = [row for row in benchmark["rows"] if row["batch"] == 1]
columns = {"forward_ms": "a prediction", "explanation_ms": "prediction and explanation"}
times = {row["backbone"]: {columns[key]: row[key] for key in columns} for row in rows}
plot_bars(pd.DataFrame(times).T, "milliseconds")

# %% tags=["remove-input"]
older = benchmark["date"] < explainer.record["date"]
Markdown(
    f"*One photo at a time on {benchmark['hardware']}.* An explanation takes "
    + ", ".join(f"{row['ratio']:.2f} times as long for `{row['backbone']}`" for row in rows)
    + ", prediction included."
    + (" Timed before the decoder of this explainer, which adds to it." if older else "")
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
provenances({**dict(zip(committed, headers, strict=True)), "benchmark.json": benchmark}).style

# %% [markdown]
# *Where these numbers come from.*
#
# ## What to remember
#
# - `ttame.load(name).explain(photo).plot()` explains a photo.
# - A map belongs to a class. Ask for several, or for their difference, when you want to know what
#   tells them apart.
# - Raw maps keep their values; what you look at is scaled to its own range.
# - An explanation costs little more than the prediction.
#
# ## Exercises
#
# **1.** What does the classifier see in the photo of a cup of coffee? Show its five most probable
# classes.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
explainer.explain(path["coffee"], top_k=5).plot()

# %% [markdown]
# **2.** Where is the lemon, where the orange? Ask for the difference of two maps of the photo of
# citrus fruits.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
citrus = explainer.explain(path["citrus_fruits"], [["lemon", "orange"]])
lemon, orange = citrus.maps[0]
plot_grid([[("photo", citrus.images[0]), ("lemon − orange", lemon - orange)]], signed=True,
          what="Citrus fruits and the difference of two of their maps")  # fmt: skip

# %% [markdown]
# **3.** On how much of the photo is the map of the macaw above half of its highest value?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
macaw = explainer.explain(path["scarlet_macaw"])
print(f"{short_name(macaw.names()[0][0])}: {(macaw.upsampled() > 0.5).float().mean():.0%}")
