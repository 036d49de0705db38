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
# # Look for yourself
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/11_explore.ipynb)
#
# **Shows** explanation maps to play with: choose a photo or drop one of your own, any class, a
# method and how many pixels the classifier keeps, and see what it still recognises.
#
# **Costs** less than a minute on a CPU; nothing is downloaded.
#
# **Data and model.** The sample photos that ship with `ttame`, and an EfficientNet-Lite0
# {cite}`efficientnet` with its ImageNet weights. Its shipped explainer is compared with the
# mechanism trained as published {cite}`ttame` and with Grad-CAM {cite}`gradcam`.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
shown = ["citrus_fruits", "cat", "honey_bee", "photographer", "suspension_bridge", "scarlet_macaw"]
classes = 5  # the most probable ones of each photo
methods = ["T-TAME", "T-TAME (published)", "Grad-CAM"]
live = None  # where the network's files lie; the book's build has them, None shows samples only

# %%
import tempfile
from pathlib import Path

import ttame
from ttame.companion.notebook_profiles import open_profile
from ttame.data import samples

setting = open_profile(profile)
path = {path.stem: path for path in samples().paths}
explainer = ttame.load(setting.backbone)

exploration = ttame.explore(
    explainer, [path[name] for name in shown], classes=classes, methods=methods, live=live
)
table = exploration.table()
print(f"{explainer.spec.name}: {len(shown)} photos × {classes} classes × {len(methods)} methods,")
print(f"{len(table)} probabilities measured, at {exploration.shares} % of the pixels")
exploration

# %% [markdown]
# *Sample photos with the most probable classes that the classifier finds in each; counts stand
# above. Bright places support the chosen class. Move the slider to the right and only the pixels
# that the map ranks highest are kept: a good map loses little of the class's probability on the
# way, or even raises it, because what spoke for other classes is gone. The lines compare the
# methods at every step.*
#
# In the built book the network itself runs in this page, once it is asked to: about 17 MB are then
# loaded from beside it. Photos that you drop there stay in your browser. Maps, masked photos and
# answers are computed by the same classifier and mechanism as everywhere in this book, with weights
# rounded to 16 bits; tests hold the numbers against PyTorch in Chromium and Firefox. The other
# methods need gradients or many passes, and are shown for the samples alone.
#
# The mechanism trained as published has a free row for every class, and has met most classes rarely
# or never; its maps of these mean little ([little data](05_little_data.ipynb) measures that). The
# shipped explainer has seen the same photos; its rows are tied to the classifier's own class
# vectors.
#
# ## Where to look first
#
# Where keeping fewer pixels raises a class the most:

# %%
gains = table.assign(gain=table["masked"] - table["whole"]).sort_values("gain", ascending=False)
best = gains.drop_duplicates(["photo", "class"]).head(6)
best.style.hide().format("{:.1%}", subset=["whole", "masked", "gain"]).format(
    "{} %", subset="share"
)

# %% [markdown]
# *For each photo and class the method and the share of pixels with the largest gain, the six
# largest gains of this page; `whole` is the probability on the whole photo, `masked` that with only
# this share of its pixels. A high gain says that the classifier finds these pixels enough, not that
# a person would.*
#
# ## Your own photos
#
# A page of results computed beforehand is one small file that needs no server. `ttame.explore`
# takes whatever `explain` takes, classes by name as well, and any of `ttame.methods.METHODS`; on
# the command line it is `ttame explain PHOTO... --html page.html`. With the network inside, it is
# `explainer.demo("demo.html")`: see [Take it with you](14_take_it_with_you.ipynb).

# %%
with tempfile.TemporaryDirectory() as folder:
    fruits = ttame.explore(explainer, path["citrus_fruits"], classes=["lemon", "orange", "fig"])
    page = fruits.save(Path(folder) / "fruits.html", title="Which fruit?")
    print(f"{page.name}: {page.stat().st_size / 1000:.0f} kB")
