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
# # Where maps mislead
#
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/12_failure_cases.ipynb)
#
# **You will learn**
#
# - how to find the photos on which a map fails by their scores, not by their looks;
# - why a convincing map does not make a prediction right;
# - why the map of one class is no argument against another;
# - how a map can score almost perfectly and say nothing.
#
# **It costs** about 20 seconds and 2.5 GB of memory on one CPU core; nothing is trained or
# downloaded.
#
# **Model and photos.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights and the
# explainer that ships with `ttame`, trained by our recipe. The pictures show the 18 sample photos;
# the counts come from committed results on 500 photos of Imagenette {cite}`imagenette`.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = 4  # photos of each kind of failure
percentage = 15  # retained pixels by which photos are picked: 100, 50 or 15
seed = 0

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.classifiers.classes import imagenet_indices
from ttame.companion.failures import (
    beaten_by,
    class_sensitivity,
    keep_by_truth,
    largest_losses,
    read_rows,
)
from ttame.companion.figures.masked import plot_masked
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, reference
from ttame.data import samples
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import read_together, summary
from ttame.images import normalize, read_image, to_batch
from ttame.methods import build
from ttame.plotting import plot_grid
from ttame.records import read_results

setting = open_profile(profile)
explainer = ttame.load(setting.backbone)
photos = setting.photos("val")
photos = photos.sample(setting.pick(quick=len(photos), imagenette=500, imagenet=500), seed)
names = [f"imagenette_val{part}.jsonl" for part in ("", "_cam", "_other")]
headers, committed = read_together(*[reference(name) for name in names])

# %% [markdown]
# Pretty examples prove little: anyone can pick them. Here the scores pick. Each photo is
# {term}`masked <Mask>` by its map, so that only the highest-ranked pixels remain, and shown to the
# classifier again. Let $p$ be the probability of the predicted class on the whole photo, and $p'$
# that on the masked one. Photos on which $p'$ falls far below $p$ are the ones we want to look at.

# %%
compared = ("T-TAME", "Grad-CAM")
with tempfile.TemporaryDirectory() as folder:
    measured = evaluate(explainer, photos, Path(folder) / "live.jsonl", methods=compared)
    records = read_results(measured)[1]

# %% [markdown]
# ## When the best part is not enough
#
# Sort the photos by what masking costs, $p - p'$, and look at the top.

# %%
worst = largest_losses(records, "T-TAME", percentage).head(shown)
images, targets = read_rows(explainer, photos, worst)
maps = build("T-TAME", explainer)(images, targets)
plot_masked(explainer, images, targets, {"T-TAME": maps}, (50, percentage))

# %% [markdown]
# *The photos that lose most. Left to right: the photo with the predicted class and p, its map, and
# the masked photo at two shares with p'. A third line names what the classifier sees instead.*
#
# None of these maps misses its object. What fails is the claim that a small part of it is enough:
# a pan without rim and handle might be anything, and a red strip of parrot looks like a goldfish.
# With half of the pixels, the classifier still names all four.

# %% tags=["remove-input"]
losses = largest_losses(committed, "T-TAME", percentage)
halved = (losses["loss"] > losses["probability"] / 2).sum()
Markdown(
    f"This is common, not a curiosity. With {percentage} % of the pixels, {halved} of "
    f"{len(losses)} photos of Imagenette lose more than half of their probability; "
    f"{(losses['loss'] <= 0).sum()} lose nothing."
)

# %% [markdown]
# ## When Grad-CAM does better
#
# A mean can favour one method while single photos favour the other. These are the photos on which
# the part chosen by Grad-CAM {cite}`gradcam` keeps more than the part chosen by T-TAME.

# %%
lost = beaten_by(records, "T-TAME", "Grad-CAM", percentage).head(shown - 1)
images, targets = read_rows(explainer, photos, lost)
maps = {name: build(name, explainer)(images, targets) for name in compared}
plot_masked(explainer, images, targets, maps, (percentage,))

# %% [markdown]
# *The largest advantages of Grad-CAM: the photo, then map and masked photo of either method. The
# two maps lie in much the same place. A little more or less of a face, a flank or a tower decides.*

# %% tags=["remove-input"]
gaps = beaten_by(committed, "T-TAME", "Grad-CAM", percentage)["gap"]
Markdown(
    f"On Imagenette, Grad-CAM keeps more than T-TAME on {(gaps > 0).sum()} of {len(gaps)} photos, "
    f"and at least 0.2 more on {(gaps >= 0.2).sum()}. T-TAME keeps at least 0.2 more on "
    f"{(gaps <= -0.2).sum()}."
)

# %% [markdown]
# ## Wrong answers, convincing maps
#
# A map explains the prediction, right or wrong. To see wrong ones, make the task harder: show a
# corner of one photo, and rotate three others.

# %%
path = {path.stem: path for path in samples().paths}
odd = {
    "a space helmet": read_image(path["astronaut"]).crop((256, 256, 512, 512)),
    "jaguars": read_image(path["jaguars"]).rotate(180),
    "a crab": read_image(path["crab"]).rotate(270, expand=True),
    "a photographer": read_image(path["photographer"]).rotate(90, expand=True),
}

# %%
images = normalize(to_batch(list(odd.values()), explainer.spec), explainer.spec)
targets = explainer.classifier(images).argmax(dim=1)
maps = build("T-TAME", explainer)(images, targets)
notes = [f"({name})" for name in odd]
plot_masked(explainer, images, targets, {"T-TAME": maps}, (50,), notes)

# %% [markdown]
# *Four wrong answers. Above each photo stand the predicted class, its probability and, in brackets,
# what the photo shows. The maps lie on the helmet, the cats, the crab and the man with his camera,
# as convincing as under the right names.*
#
# These answers are fragile: three of the four change once half of the pixels are hidden. Could
# that give wrong answers away?

# %% tags=["remove-input"]
labels = {name: imagenet_indices()[name.split("/")[0]] for name in committed["photo"].unique()}
everything = keep_by_truth(committed, labels, "T-TAME")["photos"]
alike = keep_by_truth(committed, labels, "T-TAME", between=(0.3, 0.7))
Markdown(
    f"Not as a rule. On Imagenette, {everything['wrong']:.0f} of {everything.sum():.0f} predictions "
    "differ from the label. Among those "
    f"with a probability from 0.3 to 0.7, the best half of the pixels keeps "
    f"{alike.loc['wrong', 'kept']:.0f} % of it where the prediction is wrong "
    f"({alike.loc['wrong', 'photos']:.0f} photos), and {alike.loc['right', 'kept']:.0f} % where it "
    f"is right ({alike.loc['right', 'photos']:.0f}). Some of these labels are worse than the prediction: a photo may show several things but has only one label."
)

# %% [markdown]
# ## Two classes, one map
#
# The map of the most probable class and that of the runner-up should differ where the classifier
# tells the two apart. A rank correlation says how similar they are: 1 means that both rank all
# places alike.

# %%
explanation = explainer.explain(photos.paths, top_k=2, progress=False)
alike = class_sensitivity(explanation.maps)
pair = [photos.paths[int(alike.argmax())], photos.paths[int(alike.argmin())]]
explained = explainer.explain(pair, top_k=2)
explained.plot()

# %% tags=["remove-input"]
Markdown(
    "*The photo with the two most similar maps "
    f"(correlation {alike.max():.2f}), and below it the one with the two least similar "
    f"({alike.min():.2f}). Half of the {len(photos)} photos are above {alike.median():.2f}.*"
)

# %% [markdown]
# Missile or projectile, the same places light up, and not even where the rocket is: the heat lies
# in the sky on both sides of it. Such a map says neither *why this class* nor, on this photo,
# *where the object is*. If the question is "why this one and not that one?", subtract the maps:

# %%
first, second = explained.maps[:, 0], explained.maps[:, 1]
titles = [f"{names[0]} − {names[1]}" for names in explained.names()]
rows = [list(zip(titles, first - second, strict=True))]
plot_grid(rows, signed=True, what="Differences of the maps of two classes")

# %% [markdown]
# *The first class's map minus the second's, for the same two photos; red speaks for the first
# class, blue for the second. Each panel has its own range, so faint differences look as strong as
# real ones.*
#
# ## A perfect score that says nothing
#
# Fake-CAM {cite}`fakecam` is 1 everywhere except at a single pixel. It looks at nothing.

# %%
images, targets = read_rows(explainer, photos, worst.head(2))
fake = build("Fake-CAM", explainer)(images, targets)
plot_masked(explainer, images, targets, {"Fake-CAM": fake}, (100, 15))

# %% [markdown]
# *The first two photos of this page under a map that says nothing. With all pixels retained the
# answer is intact. At 15 % the map has to choose, and chooses at random.*

# %% tags=["hide-input"]
columns = ["AD 100%", "IC 100%", "AD 15%", "IC 15%"]
summary(committed).loc[[*compared, "Fake-CAM"], columns].style.format(precision=1)

# %% [markdown]
# *{term}`Average Drop` (AD, lower is better) and {term}`Increase in Confidence` (IC, higher is
# better) on 500 photos of Imagenette, percent. With all pixels retained, the map that looks at
# nothing wins both columns. Never read these alone.*

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
provenances(dict(zip(names, headers, strict=True))).style

# %% [markdown]
# ## What to remember
#
# - Rank photos by a score and look at the worst ones before you trust the mean.
# - A map explains the classifier's answer. It does not vouch for it.
# - The map of a class says which places support it, not why another class lost. For that, look at
#   the difference of two maps.
# - A score means something only beside the score of a map that knows nothing.
#
# [Limitations](../book/limitations.md) lists what else these maps do not tell.
#
# ## Exercises
#
# **1.** Do the same photos fail when half of the pixels remain?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
ranked = {share: largest_losses(records, "T-TAME", share) for share in (50, 15)}
pd.DataFrame({f"worst at {share} %": found.index[:5] for share, found in ranked.items()})

# %% [markdown]
# **2.** Ask for a class that is not in the photo, say the giant panda in the photographer's. What
# does its map look like, and what would warn you?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# A map always answers: it is scaled to its own range. Only the probability says that no panda is
# there.
explainer.explain(path["photographer"], [["tripod", "giant panda"]]).plot()

# %% [markdown]
# **3.** Build a cheat of your own: a map that hides one corner and nothing else. How much does it
# lose with all pixels retained?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
cheat = torch.ones(len(images), 1, 8, 8)
cheat[:, :, 0, 0] = 0
plot_masked(explainer, images, targets, {"one corner": cheat}, (100,))
