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
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/11_explore.ipynb)
#
# **You will learn**
#
# - to read a map by hiding what it ranks low, and watching the classifier's answer;
# - to compare methods, and two classes, on the same photo;
# - to make such a page of photos of your own.
#
# **It costs** about 30 seconds and 2 GB of memory on one CPU core; nothing is downloaded.
#
# **Model and photos.** Six sample photos and an EfficientNet-Lite0 {cite}`efficientnet` with its
# ImageNet weights. T-TAME (our recipe) stands beside the mechanism trained as published
# {cite}`ttame` and Grad-CAM {cite}`gradcam`.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = ["citrus_fruits", "cat", "honey_bee", "photographer", "suspension_bridge", "scarlet_macaw"]
classes = 5  # the most probable ones of each photo
methods = ["T-TAME", "T-TAME (published)", "Grad-CAM"]
live = None  # where the network's files lie; the book's build has them, None shows samples only

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import ttame
from ttame.companion.notebook_profiles import open_profile
from ttame.data import samples

setting = open_profile(profile)
path = {path.stem: path for path in samples().paths}
photos = [path[name] for name in shown]

# %% [markdown]
# Choose a photo, a class and a method. Then move the slider to the right: only the pixels that the
# map ranks highest stay, and the line shows how sure the classifier still is.

# %%
explainer = ttame.load(setting.backbone)
exploration = ttame.explore(explainer, photos, classes=classes,
                            methods=methods, live=live)  # fmt: skip
exploration

# %% [markdown]
# *Bright places support the chosen class. With a good map, the class loses little of its
# probability on the way. Some maps even raise it, because what spoke for other classes is gone.
# The lines compare the
# methods at every step.*
#
# ## Your own photo
#
# In the built book the network itself runs in this page, once you ask for it: about 17 MB are then
# loaded from beside the page. Drop a photo, paste one, or use the camera. Ask for any of the 1,000
# classes by name, set two classes or several methods side by side, and copy a link that keeps what
# you see. Photos stay in your browser.
#
# The page computes with the same classifier and mechanism as everywhere in this book, its weights
# rounded to 16 bits; tests hold its numbers against PyTorch in Chromium and Firefox. Grad-CAM needs
# gradients, which the page's network does not have, so it is shown for the sample photos alone.
#
# For classes that it rarely saw in training, the mechanism trained as published gives maps that
# mean little. It learns a row of weights for each
# class from photos of that class, and has met most classes rarely or never
# ([Training on little data](05_little_data.ipynb) measures what that does). Our recipe ties the
# rows to the classifier's own {term}`class vectors <Class vector>`.
#
# ## A page of your photos
#
# The same as a file, for a colleague or a talk. It needs no server, and on the command line it is
# `ttame explain PHOTO... --html page.html`.

# %%
fruits = ttame.explore(explainer, path["citrus_fruits"], classes=["lemon", "orange", "fig"])
with tempfile.TemporaryDirectory() as folder:
    page = fruits.save(Path(folder) / "fruits.html", title="Which fruit?")
    print(f"{page.name}: {page.stat().st_size / 1000:.0f} kB")

# %% [markdown]
# With the network inside, so that its readers can drop photos of their own, it is
# `explainer.demo("demo.html")`: see [Take it with you](14_take_it_with_you.ipynb).
#
# ## What to remember
#
# - The slider is the test: a map is as good as the pixels that it keeps.
# - A class that gains when pixels are hidden had rivals elsewhere in the photo.
# - What is enough for the classifier need not be what a person would point at.
#
# ## Exercises
#
# Answer both with the page, before you unfold the solution.
#
# **1.** How few pixels of the photographer's photo are enough for “tripod”? Try T-TAME first, then
# Grad-CAM.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
table = exploration.table()
tripod = table[table["class"] == "tripod"]
tripod = tripod.pivot(index="share", columns="method", values="masked")
tripod.rename_axis(index="pixels kept, %", columns=None).style.format("{:.0%}")

# %% [markdown]
# **2.** On which photo does a class gain most when pixels are hidden, and which rival class has to
# be hidden for that?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
table["gain"] = table["masked"] - table["whole"]
best = table.sort_values("gain", ascending=False).drop_duplicates(["photo", "class"]).head(4)
best.style.hide().format("{:.0%}", subset=["whole", "masked", "gain"])

# %% [markdown]
# *The largest gains, each with the method and the share of pixels in percent: `whole` is the
# probability on the whole photo, `masked` that with only this share of its pixels. Orange gains
# when the lemons are hidden.*
