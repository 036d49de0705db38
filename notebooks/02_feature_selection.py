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
# # Feature selection
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/02_feature_selection.ipynb)
#
# **You will learn**
#
# - how much of an {term}`explanation map <Explanation map>` comes from the deepest layer, and what
#   shallower ones add;
# - what {term}`feature maps <Feature map>` of different depth look like, and how much each knows
#   about the class;
# - which layers of a network can be read at all, and how they are chosen for any network.
#
# **It costs** about 20 seconds and 2 GB of memory on one CPU core. Nothing is trained or
# downloaded.
#
# **Model and photos.** An EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights, and
# explainers that were trained on it: by our recipe on one layer and on three, and as published on
# three. Two of the sample photos are looked at; scores are read from committed results.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
shown = ["cat", "german_shepherd"]  # sample photos
channels = 5  # feature maps that are shown of a layer

# %% tags=["hide-input"]
import pandas as pd
import torch
from IPython.display import Markdown

import ttame
from ttame.classifiers.classes import short_name
from ttame.classifiers.layers import list_layers
from ttame.classifiers.registry import build_backbone
from ttame.companion.figures.maps import plot_feature_maps, plot_layers
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.training import plot_bars
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, reference
from ttame.companion.studies.runs import at_layer
from ttame.data import samples
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.diagnosis import keep_layers
from ttame.evaluation.tables import scores, summary
from ttame.images import normalize
from ttame.methods import build
from ttame.plotting import plot_methods
from ttame.records import read_results

open_profile(profile)
path = {path.stem: path for path in samples().paths}

# %% [markdown]
# ## One layer is enough
#
# The papers read three layers, fine and coarse ones, because fine maps can draw outlines that coarse
# ones cannot. Does it pay? Here is the same recipe with the same photos and steps, trained once on
# the deepest layer alone and once on three, on photos of Imagenette {cite}`imagenette` and on photos
# of kinds that neither saw in training.

# %% tags=["hide-input"]
files = {
    "Imagenette": ("imagenette_val.jsonl", "recipe_layers.jsonl"),
    "other kinds": ("kinds_val.jsonl", "recipe_layers_kinds.jsonl"),
}
headers, compared = {}, []
for data, pair in files.items():
    pieces = []
    for name, file in zip(("the deepest layer", "three layers"), pair, strict=True):
        headers[file], records = read_results(reference(file))
        pieces.append(scores(records.query("method == 'T-TAME'")).assign(method=name))
    found = paired_differences(pd.concat(pieces), "the deepest layer")
    compared.append(found.assign(against=f"three layers, {data}"))
table = pd.concat(compared, ignore_index=True)
masked = [f"{measure} {share}%" for measure in ("AD", "IC") for share in (100, 50, 15)]
plot_differences(table, "the deepest layer", masked)

# %% [markdown]
# *Right of zero, the explainer on the deepest layer is ahead of the one on three layers, in
# {term}`Average Drop` (AD) and {term}`Increase in Confidence` (IC) when 100, 50 and 15 % of the
# pixels are kept. Bars are 95 % intervals over photos; grey: no difference is shown.*

# %% tags=["remove-input"]
counts = table["verdict"].value_counts().reindex(["better", "worse", "open"], fill_value=0)
largest = table.loc[table["score"].isin(masked), "difference"].abs().max()
Markdown(
    f"Over all {len(table)} comparisons, {table['score'].nunique()} scores on either set of photos, "
    f"the deepest layer alone is better in {counts['better']} and worse in {counts['worse']}; in "
    f"{counts['open']} no difference is shown. In AD and IC the two differ by at most "
    f"{largest:.1f} percentage points. A layer that brings nothing is left out: **T-TAME (our "
    "recipe) reads the deepest layer alone**, T-TAME (as published) reads three."
)

# %% [markdown]
# ## Why: knowledge of the class comes late
#
# One pass of the classifier computes all feature maps. Here are those of three depths, for a cat and
# a dog.

# %%
explainer = ttame.load("tf_efficientnet_lite0_layers")  # ours, on three layers
explanation = explainer.explain([path[name] for name in shown])
images = normalize(explanation.images, explainer.spec)
with torch.inference_mode():
    logits, maps = explainer.extract(images)

# %% tags=["hide-input"]
tapped = dict(zip(explainer.layers, maps, strict=True))
plot_feature_maps({name: values[:1] for name, values in tapped.items()}, channels)

# %% [markdown]
# *The channels that respond most to the photo of the cat, from shallow (top) to deep. Shallow maps
# are fine, and draw edges and textures whatever they belong to; deep ones are coarse, and mark
# places.*

# %% tags=["hide-input"]
plot_feature_maps({name: values[1:2] for name, values in tapped.items()}, channels)

# %% [markdown]
# *The same for the photo of the dog. In the deepest layer other channels respond than for the cat.*
#
# Grad-CAM {cite}`gradcam` turns any single layer into a map of the class without training, by the
# gradients of its channels. So it can ask every depth where the class is:

# %%
targets = explanation.targets[:, 0]
titles = [short_name(names[0]) for names in explanation.names()]
cams = {}
for name in explainer.layers:
    cams[name] = build("Grad-CAM", at_layer(explainer, name))(images, targets)
plot_methods(explanation.images, cams, titles)

# %% [markdown]
# *Grad-CAM for the predicted class at three depths, from shallow to deep. At the shallow layers it
# is scattered over spots and edges; at the deepest it covers the animal in large patches.*
#
# ### What each layer is worth
#
# Measured on a trained mechanism, T-TAME (as published): its maps with all three layers, with each
# layer left out, and with each alone.

# %% tags=["hide-input"]
headers["diagnosis_published.jsonl"], parts = read_results(reference("diagnosis_published.jsonl"))
readings = ["all layers", *(f"{kind} {of}" for kind in ("without", "only") for of in tapped)]
drops = summary(parts).loc[readings, "AD 50%"]
plot_bars(drops.to_frame("half of the pixels kept"), "Average Drop, % (lower is better)")

# %% tags=["remove-input"]
shallow, middle, deep = explainer.layers
Markdown(
    f"*Means over {parts['photo'].nunique()} photos of Imagenette.* Read alone, the shallowest layer "
    f"has an AD of {drops[f'only {shallow}']:.0f}\u00a0%, the middle one "
    f"{drops[f'only {middle}']:.0f}\u00a0%, the deepest {drops[f'only {deep}']:.0f}\u00a0%; all three "
    f"together have {drops['all layers']:.0f}\u00a0%. "
    "[The attention mechanism](03_attention_mechanism.ipynb) has the differences with their "
    "intervals."
)

# %% [markdown]
# Our recipe on three layers tells the same story. Here are its maps, and those of each layer alone:

# %%
readers = {"three layers": explainer}
for name in explainer.layers:
    readers[f"only {name}"] = keep_layers(explainer, [name])
with torch.inference_mode():
    alone = {name: reader(images)[2] for name, reader in readers.items()}
plot_methods(explanation.images, alone, titles)

# %% tags=["remove-input"]
statistics = pd.DataFrame(explainer.layer_statistics(images)).set_index("layer")
share = statistics["share"]
Markdown(
    "*Maps of the predicted class by our recipe on three layers, and what is left of them when only "
    "one is read, every map scaled to its own range.* Without the deepest layer (not shown) a map "
    f"changes by {share.iloc[-1]:.1f} of its own standard deviations over the photo; without the "
    f"shallowest, by {share.iloc[0]:.2f}."
)

# %% [markdown]
# ## Which layers can be read
#
# Any module whose output is a grid can feed the mechanism: the feature maps of a convolutional
# network, or the {term}`patch tokens <Patch token>` of a transformer, laid out on their grid. One
# forward pass finds them, in any network.

# %% tags=["hide-input"]
families = {
    "EfficientNet-Lite0": "tf_efficientnet_lite0",
    "ViT-Tiny": "vit_tiny_patch16_224",
    "Swin-Tiny": "swin_tiny_patch4_window7_224",
    "Hiera-Tiny": "hiera_tiny_224",
}

# %%
networks = {}
for title, name in families.items():
    backbone = build_backbone(f"timm/{name}")  # with random weights
    networks[title] = list_layers(backbone.model, backbone.spec.input_size)
plot_layers(networks)

# %% [markdown]
# *Modules of four networks in the order in which they run, against the stride of their maps, the
# width of a cell in pixels. Blue and labelled: the automatic choice, with channels, height and
# width. Crosses: maps whose cells do not stand in the order of the image.*
#
# The automatic choice (`layers="auto"`) knows no names of networks. It sends three images through
# the network: noise, and the same noise changed at two places. A module is a candidate if its output
# has the shape of an image and each change shows at its own place. Some networks carry their tokens
# in another order, like Hiera above; their maps would be scrambled pictures. Among the candidates it
# takes the last module of each of the last three resolutions, as the papers do; in a network of
# equal blocks, three of the last four. `layers="deepest"` takes the deepest of these.

# %% tags=["hide-input"]
rows = pd.DataFrame(
    [vars(row) for row in list_layers(explainer.classifier, explainer.spec.input_size)]
).set_index("name")
rows["registered"] = rows.index.isin(explainer.layers)
either = rows.loc[rows["chosen"] | rows["registered"], ["channels", "stride"]]
either["stride"] = either["stride"].map("{:g}".format)
for name, column in {"automatic": "chosen", "by hand": "registered"}.items():
    either[name] = rows[column].map({True: "yes", False: "–"})
either

# %% [markdown]
# *Layers that are chosen automatically, and by hand. For networks that `ttame` lists by name, the
# latter are used. Here both choices read the same resolutions.* `ttame layers MODEL` prints such a
# table for every classifier of timm and torchvision:
#
# ```console
# $ ttame layers timm/resnet50
# ```

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
provenances(headers).style

# %% [markdown]
# *Where the scores of this chapter come from.*
#
# ## What to remember
#
# - The deepest layer makes the map. Shallow layers see edges, not classes.
# - Our recipe gains nothing measurable from three layers, so it reads the deepest one. As published,
#   the mechanism reads three.
# - Layers are found by what they do, not by their names, so the choice works for any network.
# - Other choices of layers, for the mechanism as published, are measured in [the
#   ablations](08_ablations_mechanism.ipynb).
#
# ## Exercises
#
# **1.** Which layers are chosen for a ResNet-18?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
resnet = build_backbone("timm/resnet18")
for row in list_layers(resnet.model, resnet.spec.input_size):
    if row.chosen:
        print(row.name, row.channels, row.size)

# %% [markdown]
# **2.** Attach a fresh mechanism to two layers of your choice. How many weights would be trained?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
fresh = ttame.attach("tf_efficientnet_lite0", layers=["blocks.4", "blocks.6"])
print(f"{sum(weight.numel() for weight in fresh.mechanism.parameters()):,}, of which "
      f"{fresh.mechanism.fusion.weight.numel():,} are the rows of the classes")  # fmt: skip

# %% [markdown]
# **3.** Read only the two shallow layers of the explainer on three. What does the map show?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
blinded = keep_layers(explainer, explainer.layers[:2])
with torch.inference_mode():
    edges = {
        "all layers": alone["three layers"],
        "shallow ones": blinded(images, targets[:, None])[2],
    }
plot_methods(explanation.images, edges, titles)
