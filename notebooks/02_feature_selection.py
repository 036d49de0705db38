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
# **Shows** which layers of a classifier can feed the attention mechanism, what their feature maps
# look like, and what each contributes to an explanation map.
#
# **Costs** less than a minute on two CPU cores; nothing is trained or downloaded.
#
# **Data and model.** EfficientNet-Lite0 with its ImageNet weights and the shipped explainer.
# Photos are those of Imagenette's validation split where that is available, else the sample
# photos; the output says which. The larger profiles take more photos.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
photos = None  # how many are measured; None: as the profile sets
channels = 5  # feature maps that are shown of a layer
seed = 0

# %% [markdown]
# ## Which layers there are
#
# Any module whose output is a grid can be tapped: feature maps of a convolutional network, or the
# patch tokens of a transformer laid out on their grid. One forward pass finds them all.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import torch

import ttame
from ttame.classifiers.layers import list_layers
from ttame.classifiers.registry import build_backbone
from ttame.companion.figures.curves import plot_metrics
from ttame.companion.figures.maps import plot_feature_maps, plot_layers
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import reference
from ttame.companion.studies.runs import at_layer
from ttame.data import samples
from ttame.evaluation.diagnosis import keep_layers
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import per_sample, summary
from ttame.methods import build, ttame_method
from ttame.plotting import plot_grid, plot_methods
from ttame.records import read_results

setting = open_profile(profile)
explainer = ttame.load(f"{setting.backbone}_layers")  # trained on three layers by our recipe
found = list_layers(explainer.classifier, explainer.spec.input_size)
layers = pd.DataFrame([vars(row) for row in found]).set_index("name")
layers["registered"] = layers.index.isin(explainer.layers)
print(f"{explainer.spec.name}: {len(layers)} modules with a spatial output")
layers.sort_values("channels").groupby(["size", "stride"]).agg(
    modules=("kind", "size"), channels=("channels", "unique")
).sort_index(ascending=False)

# %% [markdown]
# *The modules of the classifier by the size of their maps, in cells. The stride is the width of a
# cell in pixels of the input: deeper layers have more channels and larger cells.*
#
# ## The choice
#
# The papers take the ends of the last three resolutions. `layers="auto"` makes this choice for any
# network; for a registered classifier, the registered layers are taken instead, which somebody
# chose by looking.

# %%
either = layers[layers["chosen"] | layers["registered"]]
either.drop(columns="in_place").rename(columns={"chosen": "automatic"})

# %% [markdown]
# *The layers of either choice. Where two rows have the same size, the automatic and the registered
# choice tap the same resolution at different places. `ttame layers MODEL` prints this table for any
# registered classifier and for every one of timm and torchvision.*
#
# The automatic choice knows no names of networks. It looks at one forward pass of three images,
# noise and the same noise changed at two places. A module is a candidate if its output has the
# image's shape, channels first, channels last or as patch tokens, and if each change shows at its
# own place of the map. Some networks carry their tokens in another order; their maps would be
# scrambled pictures. Among the candidates it takes the last module of each of the last three
# resolutions, or, in a network of equal blocks, three of the last four.

# %%
families = {
    "EfficientNet-Lite0": "timm/tf_efficientnet_lite0",
    "ViT-Tiny": "timm/vit_tiny_patch16_224",
    "Swin-Tiny, channels last": "timm/swin_tiny_patch4_window7_224",
    "Hiera-Tiny, tokens reordered": "timm/hiera_tiny_224",
}
networks = {}
for title, name in families.items():
    backbone = build_backbone(name)  # random weights: only the structure counts
    networks[title] = list_layers(backbone.model, backbone.spec.input_size)
plot_layers(networks)

# %% [markdown]
# *Modules of four networks in the order in which they run, against the stride of their maps.
# Coloured and labelled: the automatic choice, with channels, height and width. Crosses: maps in
# another order than the image, which the choice leaves out.*
#
# ## Feature maps

# %%
batch = explainer.explain(samples().paths, top_k=1)
names = [path.stem for path in samples().paths]
cat, dog = names.index("cat"), names.index("german_shepherd")
pair = [("cat", batch.images[cat]), ("german_shepherd", batch.images[dog])]
plot_grid([pair], what="The two photos of this page")

# %%
from ttame.images import normalize

images = normalize(batch.images[[cat, dog]], explainer.spec)
with torch.inference_mode():
    logits, maps = explainer.extract(images)
for name, values in zip(explainer.layers, maps, strict=True):
    print(f"{name:10} {tuple(values.shape[1:])}  (channels, height, width)")
tapped = dict(zip(explainer.layers, maps, strict=True))
plot_feature_maps({name: values[:1] for name, values in tapped.items()}, channels)

# %% [markdown]
# *The channels of strongest response to the photo of the cat, a registered layer a row, shallow to
# deep. Shallow maps draw edges and textures; deep ones mark places, coarsely.*

# %%
plot_feature_maps({name: values[1:] for name, values in tapped.items()}, channels)

# %% [markdown]
# *The same for the photo of the dog: other channels respond.*
#
# ## How much each layer says about the class
#
# Grad-CAM {cite}`gradcam` weights the channels of one layer by their gradients, with no training,
# so it can probe any layer. It is applied here to the output of each stage, and scored by Average
# Drop and Increase in Confidence ([definitions](../book/method.md)).

# %%
count = photos if photos is not None else setting.pick(quick=16, imagenette=200, imagenet=1000)
measured = setting.photos("val").sample(count, seed)
print(f"{len(measured)} photos of {measured.name}, classifier {explainer.spec.name}")
methods = {
    f"Grad-CAM at {name}": build("Grad-CAM", at_layer(explainer, name)) for name in explainer.layers
}
with tempfile.TemporaryDirectory() as folder:
    depth = evaluate(explainer, measured, Path(folder) / "depth.jsonl", methods=methods, seed=seed)
    table = summary(depth)
table.filter(regex="AD|IC|photos").round(1)

# %% [markdown]
# *Grad-CAM on the layers that the mechanism reads; the number of photos is in the table. A shallow
# layer alone hardly knows the class: what it adds to a deep one is sharpness.*
#
# ## What each layer contributes to an explanation
#
# A layer's part in a map is what changes when nothing of the layer is read: neither its rows of the
# fusion, nor the channels that the decoder takes from it ([method](../book/method.md)). First, the
# maps that a single layer makes:

# %%
readers = {"all layers": explainer}
readers |= {f"only {name}": keep_layers(explainer, [name]) for name in explainer.layers}
targets = logits.argmax(dim=1, keepdim=True)
with torch.inference_mode():
    parts = {name: reader(images, targets)[2] for name, reader in readers.items()}
plot_methods(batch.images[[cat, dog]], parts, ["cat", "german_shepherd"])

# %% [markdown]
# *Explanation map of the predicted class by the shipped explainer, and by one layer alone, every
# map scaled to its own range.*

# %%
pd.DataFrame(explainer.layer_statistics(images)).set_index("layer")[["share", "correlation"]].round(
    3
)

# %% [markdown]
# *Means over the sample photos. `share`: how strongly the layer's part varies over the photo,
# relative to the whole map; `correlation`: of the part with the map. A layer with a small share
# hardly matters.*

# %% [markdown]
# Measured on more photos, with each layer alone and with each layer left out:

# %%
readers |= {
    f"without {name}": keep_layers(
        explainer, [other for other in explainer.layers if other != name]
    )
    for name in explainer.layers
}
methods = {name: ttame_method(reader) for name, reader in readers.items()}
with tempfile.TemporaryDirectory() as folder:
    out = evaluate(explainer, measured, Path(folder) / "parts.jsonl", methods=methods, seed=seed)
    table, (_, records) = summary(out), read_results(out)
table.filter(regex="AD|IC|photos").round(1)

# %%
plot_metrics(per_sample(records))

# %% [markdown]
# *Average Drop and Increase in Confidence of the maps that some layers make, on the photos counted
# in the table; bars are means, lines are 95 % intervals over photos. Intervals that overlap say
# nothing about which is better: this is a look at the parts of one trained mechanism.*
#
# ## Three layers or one
#
# Whether a layer earns its place shows only where a mechanism is trained without it. The same
# recipe, photos and steps, once on the three layers of this page and once on the deepest alone;
# Imagenette's validation photos, and photos of kinds that neither saw in training:

# %%
from ttame.evaluation.comparison import paired_differences
from ttame.evaluation.tables import scores

runs = {
    "Imagenette": ("imagenette_val.jsonl", "recipe_layers.jsonl"),
    "other kinds": ("kinds_val.jsonl", "recipe_layers_kinds.jsonl"),
}
one, three = "deepest layer", "three layers"
compared = {}
for data, files in runs.items():
    both = pd.concat(
        scores(read_results(reference(file))[1].query("method == 'T-TAME'")).assign(method=name)
        for name, file in zip((one, three), files, strict=True)
    )
    compared[data] = paired_differences(both, one).drop(columns=["against", "p"])
pd.concat(compared).droplevel(1).round(1)

# %%
verdicts = pd.concat(compared)["verdict"].value_counts()
print(", ".join(f"{verdict}: {count}" for verdict, count in verdicts.items()))

# %% [markdown]
# *Deepest layer alone minus three layers, percentage points, with the 95 % interval of the paired
# difference; `better` and `worse` judge the deepest layer alone.* A layer that brings nothing
# beyond chance is left out: our recipe reads the deepest layer, the papers' three. The published
# mechanism on other choices of layers is in [the ablations](08_ablations_mechanism.ipynb).
