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
# **Shows** how one line explains a photo: the classes that the classifier sees, one explanation
# map for each, and the map of any class you name.
#
# **Costs** seconds on a CPU; nothing is downloaded.
#
# **Data and model.** The sample photos that ship with `ttame`, and the shipped explainer of an
# EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights. The other profiles add photos
# of their data set. The tables at the end are read from committed result files, which say where
# they come from.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
shown = ["german_shepherd", "scarlet_macaw", "photographer", "rocket"]  # sample photos
photos = None  # more photos, of the profile's data set; None: as the profile sets
seed = 0

# %% [markdown]
# ## One line

# %%
import tempfile

import pandas as pd

import ttame
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, provenances, read_benchmark, reference
from ttame.data import samples
from ttame.evaluation.tables import read_together, summary
from ttame.plotting import plot_grid

setting = open_profile(profile)
path = {path.stem: path for path in samples().paths}

ttame.load(setting.backbone).explain(path["cat"]).plot()

# %% [markdown]
# *The photo as the classifier sees it, and its explanation map for the predicted class, laid over
# it. Bright places support that class; the number is its probability.*
#
# An explainer is a frozen classifier together with a small attention mechanism that was trained on
# it. It reads the feature maps of a few layers, in the same forward pass that makes the
# prediction.

# %%
explainer = ttame.load(setting.backbone)
print(f"classifier   {explainer.spec.name}, {len(explainer.classes)} classes")
print(f"weights      {explainer.spec.source}")
print(f"layers       {', '.join(explainer.layers)}")
print(f"trained      {sum(p.numel() for p in explainer.mechanism.parameters()):,} parameters")
print(f"trained on   {explainer.record['photos']:,} photos of {explainer.record['data']}")

# %% [markdown]
# ## Many photos, several classes
#
# Photos may be of any size and come as paths, Pillow images, arrays or tensors. `top_k` asks for
# the most probable classes of each.

# %%
explanation = explainer.explain([path[name] for name in shown], top_k=3)
explanation.plot()

# %% [markdown]
# *Sample photos in rows; in columns the three most probable classes with their maps. The last
# photo has no class that fits well: the classifier spreads its probability, and the maps show what
# each guess rests on.*

# %%
more = photos if photos is not None else setting.pick(quick=0, imagenette=12, imagenet=12)
chosen = setting.photos("val").sample(more, seed) if more else None
print(f"{more} more photos of {chosen.name}" if chosen else "no more photos in this profile")
explainer.explain(chosen.paths, top_k=3).plot() if chosen else None

# %% [markdown]
# ## Any class, by name
#
# The map of a class can be asked for whether or not the classifier predicts it. A class is an
# ImageNet name, any of its synonyms, or an index.

# %%
citrus = explainer.explain(path["citrus_fruits"], [["lemon", "orange"]])
citrus.plot()

# %% [markdown]
# *One photo, two classes. Fruits share features, and so their maps are alike.*
#
# Raw maps of two classes come from the same features, so their difference says which places speak
# for one class rather than for the other.

# %%
lemon, orange = citrus.maps[0]
pair = [("photo", citrus.images[0]), ("lemon − orange", lemon - orange)]
plot_grid([pair], signed=True, what="Citrus fruits and the difference of two of their maps")

# %% [markdown]
# *Difference of the two raw maps: red speaks for lemon, blue for orange, white for neither.*
#
# A misspelt class is an error that names what is near.

# %%
try:
    explainer.explain(path["cat"], "taby")
except ttame.TTameError as error:
    print(error)

# %% [markdown]
# ## What a map is
#
# The raw map is what the mechanism puts out, before any scaling: its values compare across classes
# and photos, and negative ones speak against the class. For display and for the metrics each map
# is scaled to its own range and enlarged to the photo.

# %%
cat = explainer.explain(path["cat"], "tabby")
raw, scaled, enlarged = cat.maps[0, 0], cat.normalized()[0, 0], cat.upsampled()[0, 0]
height, width = raw.shape
plot_grid(
    [
        [
            ("photo", cat.images[0]),
            (f"raw, {height}×{width}\n{raw.min():.1f} to {raw.max():.1f}", raw),
            (f"normalised\n{scaled.min():.1f} to {scaled.max():.1f}", scaled),
            (f"upsampled\n{enlarged.shape[0]}×{enlarged.shape[1]}", enlarged),
            ("overlay", cat.overlay()[0, 0]),
        ]
    ],
    what="A photo of a cat and one map of it in four forms",
)

# %% [markdown]
# *The same map of the class “tabby” in its four forms. Titles give sizes and ranges of values.*
#
# ## Saving
#
# `save` writes one overlay for each photo and class; the figures of this page are ordinary
# matplotlib figures with `savefig`.

# %%
with tempfile.TemporaryDirectory() as folder:
    written = explanation.save(folder, shown)
    print(*[item.name for item in written], sep="\n")

# %% [markdown]
# ## What an explanation costs
#
# The floor is one plain forward pass of the classifier, which is needed for the prediction anyway.
# This is read from `data/results/benchmark.json`, which `make bench` writes.

# %%
benchmark = read_benchmark(reference("benchmark.json"))
timings = pd.DataFrame(benchmark["rows"]).set_index(["backbone", "batch"])
for (name, batch), row in timings.iterrows():
    print(f"{name}, batch {batch}: an explanation costs {row['ratio']:.2f} × a plain forward pass")
timings[["forward_ms", "explanation_ms", "ratio", "threads", "repeats"]].round(2)

# %%
provenance_table(benchmark).style

# %% [markdown]
# ## How good the maps are
#
# Average Drop (AD, lower is better) and Increase in Confidence (IC, higher is better) when only
# the given share of pixels is retained, all in percent; [the method page](../book/method.md)
# defines both and [the evaluation notebook](06_evaluation.ipynb) looks closer. This is the
# committed reference result, not something measured while this page was built.

# %%
kinds = ("", "_published", "_cam")
committed = [f"imagenette_val{kind}.jsonl" for kind in kinds]
headers, records = read_together(*[reference(name) for name in committed])
summary(records).filter(regex="AD|IC|photos").round(1)

# %%
provenances(dict(zip(committed, headers, strict=True)))
