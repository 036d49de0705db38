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
# # Vision Transformers
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/07_vision_transformers.ipynb)
#
# **Shows** what changes when the classifier is a Vision Transformer {cite}`vit`: tokens in the
# place of feature maps, a class token that belongs to no place, attention that other methods read
# as an explanation. T-TAME {cite}`ttame` is scored against those methods, beside the results on a
# convolutional network.
#
# **Costs** about a minute on two CPU cores in profile `quick`; nothing is downloaded.
#
# **Data and model.** Two small transformers of this project, made by distillation
# {cite}`distillation`: one of Imagenette's ten classes {cite}`imagenette`, one of all 1,000 of
# ImageNet, with the shipped explainers. Reference results come from committed files. The live part
# takes photos of Imagenette's validation split where that is available, else the sample photos;
# the output says which.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
few = 4  # photos of the pictures
channels = 5  # feature maps that are shown of a layer
seed = 0

# %% [markdown]
# ## The classifier
#
# The papers explain ViT-B-16 with ImageNet weights, which `ttame.attach("vit_b_16")` fetches where
# there is a network. This page has to run without one, so it explains a transformer that was
# trained for it. It is a **hybrid**, in the original paper's word: its patches of 16 × 16 pixels
# are not cut out of the image, but are the cells of a convolutional stem's feature map, the first
# four stages of EfficientNet-Lite0 {cite}`efficientnet`, which stay frozen. Behind it stand six
# blocks of ViT-Tiny's width, a class token and a linear head. It learnt ten classes from labels
# and from the answers of the whole EfficientNet-Lite0.

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display

import ttame
from ttame.classifiers.layers import list_layers
from ttame.companion.figures.curves import plot_drops, plot_road
from ttame.companion.figures.maps import plot_feature_maps, plot_layers
from ttame.companion.figures.scores import plot_differences
from ttame.companion.figures.training import plot_curves
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import (
    provenance_table,
    provenances,
    reference,
    training_curves,
    training_record,
)
from ttame.evaluation.comparison import in_words, paired_differences
from ttame.evaluation.confidence import higher_is_better
from ttame.evaluation.tables import curves, per_sample, read_together, scores, summary
from ttame.features import capture, to_map, token_grid
from ttame.images import normalize, to_batch
from ttame.methods import METHODS, build
from ttame.methods.attention_weights import read_attention
from ttame.methods.transformer import head_row
from ttame.plotting import plot_methods
from ttame.records import read_results

record = training_record("vit_imagenette", "classifiers")
print(
    f"right on {record['top1']:.1f} % of the {record['validation_photos']:,} photos of "
    f"{record['validation']}; its teacher, choosing among the same ten classes, on "
    f"{record['teacher_top1']:.1f} %"
)
print(f"{record['parameters']:,} parameters, trained in {record['minutes']:.0f} minutes")
provenance_table(record).style

# %%
panels = {"train/loss": "distillation loss", "val/top1": "top-1 accuracy, %"}
plot_curves(training_curves(record), panels)

# %% [markdown]
# *Loss of the distillation, and accuracy on the validation photos in percent, over the training
# steps. The photos were mixed in pairs, which keeps the loss high.*
#
# ## From tokens to maps
#
# A block of a transformer puts out a row of tokens, `(B, N, C)`. Some stand in front and belong to
# no place: the class token, in other networks distillation or register tokens as well. The others
# are the patches, row by row. Their number and the shape of the image give the grid; nothing is
# fixed to 14 × 14.

# %%
setting = open_profile(profile)
explainer = ttame.load("vit_imagenette")
classifier, spec = explainer.classifier, explainer.spec
photos = setting.photos("val").sample(few, seed)
print(f"{len(photos)} photos of {photos.name}")
raw = to_batch(photos.paths, spec)
images = normalize(raw, spec)
with torch.inference_mode(), capture(classifier, explainer.layers) as outputs:
    logits = classifier(images)
prefix = classifier.num_prefix_tokens
for name, tokens in outputs.items():
    before, height, width = token_grid(tokens.shape[1], images.shape[-2:], prefix)
    print(f"{name}: {tuple(tokens.shape)} = {before} + {height} × {width} tokens")
tapped = {name: to_map(tokens, name, images, prefix) for name, tokens in outputs.items()}
plot_feature_maps({name: values[:1] for name, values in tapped.items()}, channels)

# %% [markdown]
# *Patch tokens of the first photo as feature maps: the channels of strongest response, a layer a
# row. Unlike in a convolutional network all layers have one resolution.*
#
# Images that are not square work alike, where the network takes them:

# %%
wide = ttame.attach("timm/vit_tiny_patch16_224", input_size=(160, 224), pretrained=False)
rows = list_layers(wide.classifier, wide.spec.input_size)
plot_layers({"ViT-Tiny at 160 × 224, random weights": rows})

# %% [markdown]
# *Modules of a ViT-Tiny for images of 160 × 224 pixels, and the automatic choice: three of the
# last four blocks. The last one is left out: behind it only the class token is read, so that its
# patch tokens have no say in the answer.*
#
# ### Which output is a layer's?
#
# "The last three layers" can be read in two ways: as the *inputs* of the last blocks, behind their
# norm, or as the *outputs* of blocks. The name of the papers' node means the first, which is
# registered here; `layers="block outputs"` takes the second.

# %%
choices = {
    (name, choice): ", ".join(layers)
    for name, found in ttame.BACKBONES.items()
    if name.startswith("vit")
    for choice, layers in {"registered": found.layers, **found.alternatives}.items()
}
pd.Series(choices, name="layers").to_frame().style.set_properties(**{"text-align": "left"})

# %% [markdown]
# *The layers of either reading, for the two transformers that are registered.*
#
# ## What the class token looks at
#
# Attention is often shown as an explanation. It is one number a head and block for every pair of
# tokens, and the same for every class.

# %%
seen = read_attention(classifier, images, gradients=False)
row = head_row(classifier, seen)
looks = {
    f"block {depth}": (row @ found.mean(dim=1))[:, None, seen.prefix :].reshape(
        len(images), 1, *seen.grid
    )
    for depth, found in enumerate(seen.probabilities)
}
probability, target = logits.softmax(dim=1).max(dim=1)
captions = [
    f"{explainer.classes[index].split(',')[0]}\n{value:.1%}"
    for index, value in zip(target.tolist(), probability.tolist(), strict=True)
]
plot_methods(raw, looks, captions)

# %% [markdown]
# *How much the class token attends to each patch, mean over heads, a block a column; photos in
# rows with the predicted class and its probability. Every map is scaled to its own range.*
#
# ## What to do with the class token
#
# T-TAME's default *drops* it: the feature map is the patches. The alternative *multiplies* every
# patch by it, channel by channel, so that a channel counts as much as the class token holds of it.
# Both explainers ship.

# %%
both = {"T-TAME, dropped": explainer, "T-TAME, multiplied": ttame.load("vit_imagenette_cls")}
with torch.inference_mode():
    maps = {name: found(images, target[:, None])[2] for name, found in both.items()}
others = ("Grad-CAM", "attention rollout", "Transformer attribution", "LeGrad")
maps |= {name: build(name, explainer)(images, target) for name in others}
plot_methods(raw, maps, captions)

# %% [markdown]
# *The same photos: T-TAME with either handling of the class token, and methods for transformers,
# all for the predicted class. Rollout {cite}`rollout` knows no class. Transformer attribution is
# the generic rule {cite}`chefer_generic`; LeGrad {cite}`legrad` needs a backward pass a block.*
#
# ## The reference results

# %%
names = tuple(f"vit_imagenette_val{part}.jsonl" for part in ("", "_ttame", "_rise"))
headers, records = read_together(*[reference(name) for name in names])
name = "vit_imagenette_val_cls.jsonl"  # the same method by another explainer
header, multiplied = read_results(reference(name))
records = pd.concat([records, multiplied.assign(method="T-TAME, multiplied")], ignore_index=True)
names, headers = (*names, name), [*headers, header]
provenances(dict(zip(names, headers, strict=True)))

# %% [markdown]
# *Where the results come from: what all files share, then what each has of its own.*

# %%
known = list(METHODS)
known.insert(1, "T-TAME, multiplied")  # beside the first
order = [name for name in known if name in set(records["method"])]
blind = [name for name in ("random", "all ones") if name in order]
seen = records.groupby("method")["photo"].nunique()
complete = [name for name in order if seen[name] == seen.max() and name not in blind]
table = summary(records).loc[order]
quality = [name for name in table if name.startswith(("AD", "IC", "ROAD")) or "tion" in name]
rising = [name for name in quality if higher_is_better(name)]
falling = [name for name in quality if name not in rising]
(
    table[quality]
    .style.format(precision=1, na_rep="–")
    .highlight_max(subset=(complete, rising), props="font-weight: bold")
    .highlight_min(subset=(complete, falling), props="font-weight: bold")
)

# %%
table[["photos", "degenerate", "forward", "backward"]].round(1)

# %% [markdown]
# *Means over the photos in percent, for the transformer. Bold: the best mean of a column among
# methods that look at the photo and saw all photos; RISE, slow as it is, saw the first of
# them, as the column `photos` says, so that its row does not compare with the others.
# `forward` and `backward` count the passes a map takes. ROAD, insertion and deletion stand on the
# first photos only, as the table above says. [The evaluation chapter](06_evaluation.ipynb)
# explains the scores.*

# %%
leading = table.loc[complete, falling].rank().mean(axis=1).nsmallest(4).index
highlight = list(dict.fromkeys(["T-TAME", *leading, "random"]))
plot_road(curves(records, "ROAD"), highlight)

# %% [markdown]
# *ROAD {cite}`road` on the transformer: share of photos that keep their class, and probability of
# the class, while pixels are removed. Bands are 95 % intervals over photos.*

# %%
plot_drops(per_sample(records), highlight)

# %% [markdown]
# *Distribution of the drop: the share of photos whose probability drops by at most that much;
# higher is better.*

# %%
long = scores(records)
differences = paired_differences(long[long["score"].isin(quality)])
against = [name for name in order if name != "T-TAME"]
differences = differences.set_index("against").loc[against].reset_index()
plot_differences(differences, scores=quality)

# %% [markdown]
# *Mean paired difference between T-TAME and each other method on the photos that both saw, signed
# so that right of zero T-TAME is better, with 95 % bootstrap intervals over photos.*
#
# In words, computed from these intervals:

# %%
Markdown(in_words(differences))

# %% [markdown]
# ## A transformer of all 1,000 classes
#
# `vit_hybrid_imagenet` has six stages of EfficientNet-Lite0 for a stem and six blocks, which learnt
# the rest of that network: its features at every place and its answers, from photos of many kinds
# without labels. The teacher answers to any map of the stem, so also to mirrored ones and to
# patchworks of two photos, of which there are far more than photos.

# %%
large = training_record("vit_hybrid_imagenet", "classifiers")
print(
    f"right on {large['top1']:.1f} % of the {large['validation_photos']:,} photos of "
    f"{large['validation']}, its teacher on {large['teacher_top1']:.1f} %; {large['minutes']:.0f} "
    f"minutes on {large['hardware']}"
)
for data, share in large["agreement"].items():
    print(
        f"answers as its teacher on {share:.1f} % of {large['agreement_photos'][data]:,} of {data}"
    )

# %% [markdown]
# *No label was used: that it beats its teacher on Imagenette says that those classes take up most
# of its training photos, not that it knows more.* On photos of kinds that it never saw, every other
# answer differs from the teacher's.

# %%
sets = {"Imagenette": "imagenette", "other kinds": "kinds"}
measured = {name: read_results(reference(f"vit_hybrid_{kind}_val.jsonl"))
            for name, kind in sets.items()}  # fmt: skip
tables = {name: summary(found) for name, (_, found) in measured.items()}
pd.concat(tables).filter(regex="^(AD|IC|ROAD)|tion|photos").round(1)

# %% [markdown]
# *Means in percent, as above; ROAD, insertion and deletion on the first 20 photos of Imagenette and
# the first 40 of the others. The explainer was trained by the same recipe, for one pass.* In words,
# from paired intervals:

# %%
words = ""
for name, (_, found) in measured.items():
    long = scores(found)
    words += f"**{name}.**\n\n{in_words(paired_differences(long[long['score'].isin(quality)]))}\n\n"
Markdown(words)

# %% [markdown]
# ## Beside the convolutional network

# %%
cnn = read_together(reference("imagenette_val.jsonl"), reference("imagenette_val_cam.jsonl"))[1]
pair = {"transformer": summary(records), "EfficientNet-Lite0": summary(cnn)}
both = [name for name in pair["transformer"].index if name in pair["EfficientNet-Lite0"].index]
for name, found in pair.items():
    display(Markdown(f"**{name}**"), found.reindex(index=both, columns=quality).round(1))

# %% [markdown]
# *The same photos and methods on two classifiers, in percent. Rows compare within a classifier.
# Between the two they do not: one chooses among ten classes, the other among a thousand, and they
# take holes in a photo differently.*
#
# A word of caution. T-TAME is trained to keep the answer on masked photos, which is what AD and IC
# measure; other methods are not. ROAD, insertion and deletion ask in ways that it was not trained
# for, and there its lead is smaller, or gone: the list above says where.
