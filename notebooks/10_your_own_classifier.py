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
# # Your own classifier
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/10_your_own_classifier.ipynb)
#
# **Shows** the whole way for a network that `ttame` has never seen: train a small classifier on a
# folder of images, attach an attention mechanism, train that, explain, save and load.
#
# **Costs** about a minute and a half on two CPU cores; nothing is downloaded.
#
# **Data and model.** A ResNet-10 {cite}`timm` with random weights, trained on this page on three
# classes: of Imagenette {cite}`imagenette` where that is available, else on crops of three sample
# photos; the output says which. Any `nn.Module` that maps images to logits takes its place.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters"]
profile = "quick"
architecture = "resnet10t"  # any of timm's
size = 96  # height and width of the input, pixels
photos = None  # photos a class to train on; None: as the profile sets
epochs = None  # passes over them to train the classifier
steps = None  # optimiser steps to train the mechanism
seed = 0

# %% [markdown]
# ## A classifier of your own
#
# Nothing in this section is T-TAME: it makes the network that is going to be explained.

# %%
import tempfile
from pathlib import Path

import pandas as pd
import timm
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import ttame
from ttame.classifiers.layers import list_layers
from ttame.classifiers.specs import derive_spec
from ttame.companion.notebook_profiles import open_profile, quiet
from ttame.companion.shipped import provenance_table, read_families, reference
from ttame.data import PhotoDataset
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.tables import summary
from ttame.training.config import TrainingConfig
from ttame.training.fit import fit

quiet()
setting = open_profile(profile)
runs = tempfile.TemporaryDirectory()
folder = Path(runs.name)
each = photos or setting.pick(quick=160, imagenette=700, imagenet=1000)
train, held, classes = setting.three_classes(folder / "photos", each, seed)
print(f"train    {len(train)} photos of {train.name}")
print(f"held out {len(held)} photos of {held.name}")
print(f"classes  {', '.join(classes)}")

# %%
torch.manual_seed(seed)
model = timm.create_model(architecture, num_classes=len(classes))
spec = derive_spec(model, (), input_size=(size, size))
loader = DataLoader(PhotoDataset(train, spec, augment=True), batch_size=32, shuffle=True)
labels, truth = torch.tensor(train.labels), torch.tensor(held.labels)
epochs = epochs or setting.pick(quick=6, imagenette=15, imagenet=15)
optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(
    optimizer, max_lr=4e-3, total_steps=epochs * len(loader)
)
for epoch in range(epochs):
    model.train()
    for images, index in loader:
        loss = F.cross_entropy(model(images), labels[index], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}")

# %%
model.eval()
batches = DataLoader(PhotoDataset(held, spec), batch_size=32)
with torch.inference_mode():
    predicted = torch.cat([model(images).argmax(dim=1) for images, _ in batches])
print(f"right on {int((predicted == truth).sum())} of {len(held)} held-out photos")
pd.crosstab(
    pd.Series([classes[i] for i in truth], name="truth"),
    pd.Series([classes[i] for i in predicted], name="predicted"),
)

# %% [markdown]
# *What the classifier says of the held-out photos. Crops of one photo are alike, so that the
# samples make an easy task; Imagenette is harder. T-TAME explains the decisions of the classifier,
# right and wrong ones.*
#
# ## Attach, train, explain

# %%
explainer = ttame.attach(model, layers="auto", classes=classes, input_size=(size, size))
config = TrainingConfig.of(
    steps=steps or setting.pick(quick=60, imagenette=400, imagenet=400),
    batch_size=16,
    workers=0,
    seed=seed,
)
explainer = fit(explainer, train, config, folder / "run", name="mine", progress=False)
explanation = explainer.explain(held.paths[:: max(len(held) // 4, 1)][:4], top_k=len(classes))
explanation.plot()

# %% [markdown]
# *Held-out photos in rows, and for each class the map with the classifier's probability, most
# probable class first.*
#
# These few lines are all that T-TAME needs to know of a network. What it found out by itself:

# %%
trained = sum(p.numel() for p in explainer.mechanism.parameters())
print(f"{type(model).__name__}: {trained:,} trained parameters in the mechanism")
steps, batch_size = explainer.record["steps"], config.photos.batch_size
print(f"{steps} steps of {batch_size} photos: {explainer.record['minutes']} min")
found = list_layers(explainer.classifier, explainer.spec.input_size)
pd.DataFrame([vars(row) for row in found if row.chosen]).set_index("name")[
    ["kind", "channels", "size", "stride"]
]

# %% [markdown]
# *The layers that `layers="auto"` chose: the ends of the last three resolutions. Name others if
# you know better; `ttame.classifiers.layers.list_layers` lists them all.*
#
# ## Is it any good?

# %%
out = evaluate(explainer, held, folder / "mine.jsonl", methods=("T-TAME", "Grad-CAM", "random"))
print(f"{len(held)} photos of {held.name}, classifier {architecture} trained on this page")
summary(out).filter(regex="AD|IC|photos").round(1)

# %% [markdown]
# *AD (lower is better) and IC on the held-out photos, for the classes that the classifier
# predicts. Grad-CAM {cite}`gradcam` works on the deepest of the chosen layers. With so few photos
# and classes these numbers only show that the machinery works on a network of one's own.*
#
# ## Save and load
#
# One `safetensors` file holds the mechanism and a description; the classifier stays yours and is
# passed along when loading.

# %%
saved = explainer.save(folder / "mine.safetensors")
again = ttame.load(saved, model=model)
same = torch.equal(again.explain(held.paths[0]).maps, explainer.explain(held.paths[0]).maps)
print(f"{saved.name}: {saved.stat().st_size / 1e6:.1f} MB, same maps after loading: {same}")

# %% [markdown]
# A file is refused with a classifier that it was not made for, even one of the same architecture.

# %%
try:
    ttame.load(saved, model=timm.create_model(architecture, num_classes=len(classes)))
except ttame.TTameError as error:
    print(str(error).replace(f"{folder}/", ""))
runs.cleanup()

# %% [markdown]
# ## Classifiers of `transformers`
#
# Image classifiers of Hugging Face's `transformers` are attached as they are, also under PEFT.
# Layers, class names, input size and prefix tokens come from the model; what is done to a photo
# before it, size, crop, interpolation, normalisation and the order of the channels, from its
# processor.
#
# ```python
# from transformers import AutoImageProcessor, AutoModelForImageClassification
#
# name = "microsoft/swin-tiny-patch4-window7-224"
# model = AutoModelForImageClassification.from_pretrained(name)
# explainer = ttame.attach(model, processor=AutoImageProcessor.from_pretrained(name))
# ```
#
# A model of images and texts like CLIP is a classifier of a few texts, once their embeddings are
# computed; its logits are scaled cosines.
#
# ```python
# class ZeroShot(nn.Module):
#     def __init__(self, clip, texts):  # texts: their embeddings, (K, D)
#         super().__init__()
#         self.vision, self.project = clip.vision_model, clip.visual_projection
#         self.scale = clip.logit_scale.exp().item()
#         self.register_buffer("texts", F.normalize(texts, dim=1))
#
#     def forward(self, images):
#         embedded = F.normalize(self.project(self.vision(images).pooler_output), dim=1)
#         return self.scale * embedded @ self.texts.T
#
#
# explainer = ttame.attach(ZeroShot(clip, texts), classes=names, processor=processor)
# ```
#
# Here `clip` is a `CLIPModel`, `processor` its `CLIPProcessor` and `names` the texts:
#
# ```python
# with torch.no_grad():
#     words = processor.tokenizer(names, padding=True, return_tensors="pt")
#     texts = clip.text_projection(clip.text_model(**words).pooler_output)
# ```
#
# ## Weights as training left them
#
# For a network known by name, `weights=` takes a state dict or a checkpoint, `.safetensors`,
# `.pth` or Lightning's `.ckpt`: nested, and with the prefixes of wrappers. Code in it is never
# run. A head that was trained for other classes is built as the file has it, and what does not fit
# is named.
#
# ```python
# explainer = ttame.attach("timm/resnet50", weights="last.ckpt", classes={0: "cat", 1: "dog"})
# ```
#
# ## Which networks work
#
# Anything that maps images to logits and has feature maps on the way: convolutional networks,
# transformers with any number of class, distillation or register tokens, channels first or last,
# images of any shape, size and number of channels, any number of classes. Compiled and
# data-parallel wrappers are taken off, hooks of your own stay. What a module does not state about
# its input (size, mean, standard deviation) is asked for by name, never assumed. One line attaches
# to any classifier of timm or torchvision:
#
# ```python
# explainer = ttame.attach("timm/convnext_atto.d2_in1k")  # or "torchvision/regnet_y_400mf"
# ```
#
# Whether that is so is checked on a small member of *every* model family of timm and torchvision,
# and of families of `transformers`, with random weights: layers are found that lie in place, an
# explanation takes one forward pass, a training step changes the mechanism and not the classifier,
# and the saved explainer comes back with the same maps.

# %%
origin, found = read_families(reference("families.json"))
library = found.index.str.partition("/").get_level_values(0)
passed = found["passed"].groupby(library).agg(["sum", "count"])
print(f"{found['passed'].sum()} of {len(found)} model families pass:")
for name, row in passed.iterrows():
    print(f"  {name}: {row['sum']} of {row['count']}")

# %% tags=["hide-cell"]
provenance_table(origin).style

# %% tags=["hide-cell"]
shown = found.sort_values("passed", kind="stable")
shown["layers"] = [
    ", ".join(
        f"{tap['name']} ({tap['channels']}×{tap['size'][0]}×{tap['size'][1]})" for tap in taps
    )
    if passed
    else reason
    for taps, passed, reason in zip(shown["layers"], shown["passed"], shown["reason"], strict=True)
]
shown["input"] = [f"{height}×{width}" for height, width in shown["input_size"]]
small = {"text-align": "left", "font-size": "75%", "overflow-wrap": "anywhere"}
shown[["model", "input", "layers"]].style.set_properties(**small)

# %% [markdown]
# *The families: the checked member, the input in pixels, and the layers that were chosen by
# themselves, with the channels, height and width of their maps. A family that does not pass would
# stand at the top, with the step and message with which it was refused.*
