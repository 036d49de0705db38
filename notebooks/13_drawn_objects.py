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
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/13_drawn_objects.ipynb)
#
# **You will learn**
#
# - how to know exactly which part of an object a classifier needs: draw the object without it;
# - whether maps of several methods find these parts;
# - which measures a map can win by looking at nothing.
#
# **It costs** about 20 seconds and 2 GB of memory on one CPU core; nothing is trained or
# downloaded.
#
# **Model and photos.** No photos: creatures drawn by a program, in the spirit of FunnyBirds
# {cite}`funnybirds`. The classifier is `drawn_cnn`, five convolutions that ship with `ttame`
# together with an explainer. The scores come from a committed record.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = 4  # drawings
first = 0  # position of the first one in the validation split

# %% tags=["hide-input"]
import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.classifiers.drawn import PARTS, class_words, nearest_classes
from ttame.companion.figures.parts import plot_part_scores, plot_removals
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, reference, training_record
from ttame.evaluation.drawings import drawing
from ttame.evaluation.parts import part_intervals, region_means
from ttame.evaluation.removal import removal_effects
from ttame.images import normalize, to_batch
from ttame.methods import build
from ttame.plotting import plot_grid, plot_methods
from ttame.records import read_results

open_profile(profile)
record = training_record("drawn_cnn", "classifiers")
header, records = read_results(reference("drawn_val_parts.jsonl"))

# %% [markdown]
# ## Creatures of five parts
#
# With photos, nobody knows for sure what a classifier needs. Blacken a bird's beak, and the
# classifier sees a bird with a black hole. A drawing can be made again without the beak, while
# every other pixel stays as it is.

# %%
explainer = ttame.load("drawn_cnn")
drawings = [drawing("val", first + index) for index in range(shown)]
plot_removals(explainer, drawings)

# %% [markdown]
# *Four drawings: whole, without each part, and without the clutter around it. The number is the
# change of the {term}`logit <Logits>` of the class. The same part is worth much in one drawing and
# little in another.*
#
# Beak, crest, wing, tail and feet have four variants each. A class is a choice of variants, and its
# name spells them, one syllable per part. Body, pose, colours and clutter say nothing about it.

# %%
words = pd.DataFrame(class_words(), index=explainer.classes, columns=PARTS)
words.loc[[explainer.classes[found.label] for found in drawings]]

# %% [markdown]
# *The variants that make the four classes. Any two classes differ in at least two parts.*

# %% tags=["remove-input"]
once = records.drop_duplicates("photo")
size = {
    column: once[column].explode().astype(float).abs().mean()
    for column in ("importance", "pairs", "clutter", "background")
}
Markdown(
    "The classifier was trained on drawings of which half had parts missing, so a drawing without "
    f"a part is nothing new to it. It is right on {record['top1']:.1f} % of whole drawings, on "
    f"{record['top1_without_a_part']:.1f} % without one part and on "
    f"{record['top1_without_clutter']:.1f} % without clutter. Over {len(once)} drawings, removing "
    f"a part changes the logit by {size['importance']:.2f} on average, two parts "
    f"{size['pairs']:.2f}, one piece of clutter {size['clutter']:.2f}, all clutter at once "
    f"{size['background']:.2f}: even what no class depends on is not ignored altogether."
)

# %% [markdown]
# ## Maps of the same drawings

# %%
raw = to_batch([found.render() for found in drawings], explainer.spec)
images, targets = normalize(raw, explainer.spec), torch.tensor([d.label for d in drawings])
names = ("T-TAME", "Grad-CAM", "Layer-CAM", "RISE", "Integrated Gradients")
settings = {"RISE": {"masks": 400}}
methods = {name: build(name, explainer, settings.get(name)) for name in names}
maps = {name: method(images, targets) for name, method in methods.items()}
plot_methods(raw, maps, [explainer.classes[target] for target in targets])

# %% [markdown]
# *Maps of the class by T-TAME (our recipe), Grad-CAM {cite}`gradcam`, Layer-CAM {cite}`layercam`,
# RISE {cite}`rise` and Integrated Gradients {cite}`integrated_gradients`. Hold them against the
# numbers above: a map that knows what matters is brightest on the part whose removal costs most.*
#
# ## Do they know what matters?
#
# Six measures. The exact effects judge the first four, the outline of the creature the last two:
#
# - **part correlation** and **pair correlation**: does the map rank the five parts, or the ten
#   pairs of parts, as their removal does? 1 means the same order, 0 no relation.
# - **background independence**: how often does a part that matters outshine clutter that does not?
# - **target sensitivity**: asked for class A and then for a similar class B, does the map move
#   towards the parts that tell A from B?
# - **pointing** and **energy**: does the peak lie on the creature, and how much of the map does?

# %%
table = part_intervals(records)
plot_part_scores(table)

# %% [markdown]
# *Means with 95 % intervals over drawings; the last four in percent. Hollow dots are
# {term}`blind maps <Blind map>`, which know neither the drawing nor the class.*
#
# No method wins everywhere. RISE, which asks the classifier about hundreds of masked copies of each
# drawing, ranks parts best and follows the class best. T-TAME, with one pass, keeps best to the
# creature and off the clutter. Nor does every measure mean much: a blob in the centre, which looks
# at nothing, does well in pointing and background independence, since creatures stand in the
# middle. In the correlations and in target sensitivity it scores at chance level.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all means and intervals", "code_prompt_hide": "Hide all means and intervals"}
table["half"] = (table["high"] - table["low"]) / 2
digits = table["score"].str.contains("correlation").map({True: 2, False: 1})
table["shown"] = [
    f"{mean:.{places}f}\u00a0±\u00a0{half:.{places}f}".replace("-", "\N{MINUS SIGN}")
    for mean, half, places in zip(table["mean"], table["half"], digits, strict=True)
]
order = {"index": table["score"].unique(), "columns": table["method"].unique()}
shown = table.pivot(index="score", columns="method", values="shown").reindex(**order).T
shown.rename_axis(index=None, columns=None).style

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
provenance_table(header).style

# %% [markdown]
# ## What to remember
#
# - Where an object can be drawn without a part, the effect of the part is exact, and a map can be
#   held against it.
# - Maps predict which part matters better than chance, but far from perfectly.
# - Measures differ in what they ask; pointing at the object is the easiest.
# - Before a measure impresses you, see what a map that looks at nothing scores.
#
# ## Exercises
#
# **1.** Which part matters most in the first drawing, and on which part is T-TAME's map brightest?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
found = drawings[0]
effects = removal_effects(explainer, found, found.label, nearest_classes(found.label)[0])
covered = torch.stack([found.coverage()[part] for part in PARTS])[None]
brightness = region_means(maps["T-TAME"][:1], covered)[0]
columns = {"logit lost": effects["importance"], "mean of the map": brightness}
pd.DataFrame(columns, index=PARTS).round(2)

# %% [markdown]
# **2.** Why does a blob in the centre point so well? Look at where two hundred creatures stand.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Nearly every creature covers the middle.
covers = [drawing("val", index).coverage() for index in range(200)]
share = sum(cover[name] for cover in covers for name in (*PARTS, "body")) / len(covers)
plot_grid([[("share of creatures that cover a pixel", share)]])
