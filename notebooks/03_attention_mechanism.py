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
# # The attention mechanism
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/03_attention_mechanism.ipynb)
#
# **Shows** the way of one photo through the attention mechanism: every intermediate as a picture
# with its shape, from the feature maps to the masked photos and what the classifier says of them.
#
# **Costs** seconds on a CPU; nothing is trained or downloaded.
#
# **Data and model.** One sample photo, an EfficientNet-Lite0 with its ImageNet weights and the
# shipped explainer. All profiles take this photo; `imagenet` takes the papers' classifier instead.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
photo = "german_shepherd"  # a sample photo
layer = 1  # whose branch is looked into, counted from the shallowest
channels = 5  # feature maps that are shown of a layer

# %% [markdown]
# ## The photo and the classifier's answer

# %%
import timeit
from dataclasses import replace

import pandas as pd
import torch

import ttame
from ttame.attention import AttentionMechanism, resize, standardize
from ttame.companion.figures.maps import plot_feature_maps
from ttame.companion.notebook_profiles import open_profile
from ttame.data import samples
from ttame.evaluation.confidence import PERCENTAGES, average_drop
from ttame.images import denormalize, normalize, to_batch
from ttame.masking import keep_top, normalize_maps, upsample
from ttame.plotting import plot_grid

torch.set_grad_enabled(False)
setting = open_profile(profile)
explainer = ttame.load(f"{setting.backbone}_published")
spec, mechanism = explainer.spec, explainer.mechanism

raw = to_batch({path.stem: path for path in samples().paths}[photo], spec)
image = normalize(raw, spec)
logits, maps = explainer.extract(image)
probability, target = (found[0] for found in logits.softmax(dim=1).max(dim=1))
name = explainer.classes[target].split(",")[0]
print(f"photo {tuple(raw.shape)}, logits {tuple(logits.shape)}")
print(f"model truth: {name}, probability {probability:.1%}")
plot_grid([[(photo, raw[0])]], what="The photo of this page")

# %% [markdown]
# *The photo, resized and cropped as the classifier expects. The class that the classifier
# predicts, right or wrong, is the model truth: the target class from here on.*
#
# ## Feature maps
#
# The pass that made the logits also passed these layers, and their outputs were kept: $F_1, \dots,
# F_L$.

# %%
for name_of, values in zip(explainer.layers, maps, strict=True):
    print(f"F of {name_of:10} {tuple(values.shape)}")
plot_feature_maps(dict(zip(explainer.layers, maps, strict=True)), channels)

# %% [markdown]
# *The channels of strongest response, one row per layer. All the mechanism ever sees of the photo
# is in these maps.*
#
# ## The feature branch
#
# Each layer has its own branch, $B = \operatorname{ReLU}(\operatorname{BN}(W * F + b) + F)$: a 1×1
# convolution that mixes channels at each place, batch normalisation, a skip connection and a
# rectifier. This page looks at the mechanism as published, trained on our photos; what our own
# recipe does otherwise is at the end. Step by step, for one layer and the
# one channel that adds most to the target class:

# %%
features, branch = maps[layer], mechanism.branches[layer]
convolved = branch.convolution(features)
normalised = branch.norm(convolved)
added = normalised + features
rectifies = mechanism.config.activation == "relu"
output = torch.relu(added) if rectifies else added
assert torch.equal(output, branch(features)), "these steps are not those of the library"
print(f"activation: {mechanism.config.activation}; the same values as the library's branch")

start = sum(mechanism.widths[:layer])
row = mechanism.fusion.weight[target, start : start + mechanism.widths[layer], 0, 0]
channel = int((row * output[0].mean(dim=(-2, -1))).argmax())
steps = {
    "feature map F": features,
    "1×1 convolution": convolved,
    "batch norm": normalised,
    "+ skip" if rectifies else "+ skip: branch B": added,
    **({"ReLU: branch B": output} if rectifies else {}),
}
plot_grid(
    [[(f"{step}\n{tuple(values.shape)}", values[0, channel]) for step, values in steps.items()]],
    signed=True,
    what="One channel after each step of a feature branch",
)

# %% [markdown]
# *One channel on its way through the branch; red is positive, blue negative, white zero, each
# picture on its own scale. Titles give the shape of the whole tensor: a branch changes neither the
# number of channels nor the resolution.*

# %%
outputs = dict(zip(explainer.layers, mechanism.branch_outputs(maps), strict=True))
plot_feature_maps({f"B of {of}": values for of, values in outputs.items()}, channels)

# %% [markdown]
# *What all branches put out for the photo: the channels of strongest response, one row per layer.
# Compare them with the feature maps above; the fusion takes these.*
#
# ## Fusion
#
# The fusion is one more 1×1 convolution with a row of weights $v_y$ for each class $y$. The row of
# the target class turns each branch into one map, at the branch's own resolution; the maps are
# upsampled to the largest one and added, with the class's bias.

# %%
size = mechanism.output_size(maps)
rows = mechanism.fusion.weight[target, :, 0, 0].split(mechanism.widths)
fused, total = [], mechanism.fusion.bias[target]
for hidden, row in zip(mechanism.branch_outputs(maps), rows, strict=True):
    fused.append(torch.einsum("c,bchw->bhw", row, hidden)[:, None])
    total = total + resize(fused[-1], size)

parts = dict(zip([f"fused {of}" for of in explainer.layers], fused, strict=True))
parts["upsampled, added: c"] = total
plot_grid(
    [
        [
            (
                f"{part}, {tuple(found.shape[-2:])}\n{found.min():.2f} to {found.max():.2f}",
                found[0, 0],
            )
            for part, found in parts.items()
        ]
    ],
    signed=True,
    what="The part of each layer and their sum, the explanation map, with sizes and ranges",
)

# %% [markdown]
# *What each layer says about the target class, and their sum with the bias, the explanation map
# before the sigmoid. Red speaks for the class, blue against it; each picture has its own scale, so
# the ranges in the titles say how much a layer matters.*

# %%
explanation = mechanism(maps, target.view(1, 1))
print(f"largest difference to the library's map: {float((explanation - total).abs().max()):.1e}")

# %% [markdown]
# ## Fusing before upsampling
#
# The papers upsample every channel first, stack them, and fuse to the maps of all classes.
# Upsampling and a 1×1 convolution are linear and act on different axes, so the order does not
# change the function (see [the method](../book/method.md)), but it changes the work.

# %%
textbook = mechanism.textbook(maps)
difference = float((textbook[:, target] - explanation[:, 0]).abs().max())
print(f"textbook order: {tuple(textbook.shape)}; fusing first: {tuple(explanation.shape)}")
print(f"largest difference of the target's map: {difference:.1e}")
print(f"of maps that range from {float(explanation.min()):.1f} to {float(explanation.max()):.1f}")

# %%
one = target.view(1, 1)
cells, wide = size[0] * size[1], sum(mechanism.widths)
own = sum(hidden.shape[1] * hidden[0, 0].numel() for hidden in maps)
clock = {
    "textbook": timeit.repeat("mechanism.textbook(maps)", globals=globals(), number=1, repeat=5),
    "fusing first": timeit.repeat("mechanism(maps, one)", globals=globals(), number=1, repeat=5),
}
pd.DataFrame(
    {
        "values upsampled": [wide * cells, len(maps) * cells],
        "multiplications of the fusion": [wide * cells * len(explainer.classes), own],
        "milliseconds, branches included": [1000 * sorted(values)[2] for values in clock.values()],
    },
    index=list(clock),
).round(1)

# %% [markdown]
# *The cost of one explanation map in either order, on this machine: counts from the shapes, and
# the median of a few runs.*
#
# ## From map to mask
#
# In the papers' training the raw map passes a sigmoid, $a = \sigma(c)$. For display and in the
# metrics it is scaled to its own range instead, so that every mask runs from hidden to shown; our
# recipe trains on that form, too.

# %%
sigmoid, scaled = torch.sigmoid(explanation), normalize_maps(explanation)
mask = upsample(scaled, raw.shape[-2:])
forms = {"raw c": explanation, "sigmoid a": sigmoid, "min-max": scaled, "upsampled": mask}
plot_grid(
    [
        [
            (
                f"{form}, {tuple(found.shape[-2:])}\n{found.min():.2f} to {found.max():.2f}",
                found[0, 0],
            )
            for form, found in forms.items()
        ]
    ],
    what="One explanation map in four forms, with sizes and ranges",
)

# %% [markdown]
# *The explanation map, the mask of training, and the mask of the metrics; titles give size and
# range.*
#
# ## Masked photos, and the classifier's answer to them
#
# The metrics keep the top share of pixels with their soft values, multiply the photo by the mask
# and ask the classifier again.

# %%
pictures, answers = [("photo", raw[0])], []
for percentage in PERCENTAGES:
    kept = keep_top(mask, percentage / 100)
    masked = spec.mask(image, scaled, percentage / 100)
    value = explainer.classifier(masked).softmax(dim=1)[0, target]
    drop = average_drop(probability.view(1), value.view(1))
    answers.append((percentage, int((kept > 0).sum()), float(value), float(drop)))
    pictures.append((f"{percentage} % retained\np' = {value:.1%}", denormalize(masked, spec)[0]))
plot_grid([pictures], what="The photo, and what is left of it at each retained share")

# %% [markdown]
# *The photo, and what is left of it at each retained share, with the probability of the target
# class. Hidden pixels take the colour of the masking space that the explainer was trained in.*

# %%
print(f"{name}: p = {float(probability):.3f} on the whole photo, masking space {spec.space!r}")
columns = ["retained, %", "pixels left", "p'", "drop, %"]
pd.DataFrame(answers, columns=columns).set_index("retained, %").round(3)

# %% [markdown]
# *One photo's part in the Average Drop. It would count towards the Increase in Confidence where p'
# is larger than p.*
#
# ## What the layers add, and what the branches have learned
#
# The map is a sum over layers, so each layer's part can be measured: how much it varies over the
# photo compared with the whole map, how well it alone would do, and how far its branch has moved
# from handing its feature map through.

# %%
photos = normalize(to_batch(list(samples().paths), spec), spec)
pd.DataFrame(explainer.layer_statistics(photos)).set_index("layer").round(4)

# %% [markdown]
# *Means over the sample photos. `share`: standard deviation of the layer's part over that of the
# map. `correlation`: of the part alone with the map. `moved`: relative distance of the branch's
# output from its input; 0 for a branch that has learned nothing. `gain`: mean size of the batch
# norm's gains. A layer with a small share and a branch that has hardly moved is carried along: the
# map is made by the other layers.* What dropping a layer costs is measured by `ttame diagnose`, and
# in [Feature selection](02_feature_selection.ipynb).
#
# ## The decoder of our recipe
#
# A fusion adds what the layers say. It cannot let one layer decide how another is read: where the
# deep layer sees the class, an edge of a shallow one matters, elsewhere it does not. The explainer
# that ships for this classifier therefore fuses the feature maps themselves, without branches, and
# hands the result to a small decoder. It standardises the fused map per photo, reads a few channels
# of every layer beside it, and ends in a sigmoid. Its weights are shared by all classes, so that
# what it learns on some holds for all. It may read any number of layers; the shipped one reads the
# deepest alone, because three brought nothing more ([Feature
# selection](02_feature_selection.ipynb)).

# %%
shipped = ttame.load(setting.backbone)
decoder = shipped.mechanism.decoder
logits, targets, refined = shipped(image)
fused = AttentionMechanism(
    shipped.mechanism.channels,
    len(shipped.classes),
    replace(shipped.mechanism.config, decoder=None),
).eval()
fused.load_state_dict(shipped.mechanism.state_dict(), strict=False)
coarse = fused(shipped.extract(image)[1], targets)
start = torch.sigmoid(2 * standardize(coarse) + 1)
print(f"{sum(p.numel() for p in decoder.parameters()):,} parameters of the decoder")
steps = {"fused map": coarse, "the decoder's start": start, "what it has learned": refined}
plot_grid(
    [[("photo", raw[0]), *((step, normalize_maps(found)[0, 0]) for step, found in steps.items())]],
    what="The fused map, what the decoder makes of it at the start, and after training",
)

# %% [markdown]
# *The map of the predicted class before the decoder, as the untrained decoder would return it, and
# as the trained one does.* [Method](../book/method.md) has the equations, [GPU
# training](04_training.ipynb) how it is trained.
