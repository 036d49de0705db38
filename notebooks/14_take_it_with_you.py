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
# # Take it with you
#
# [![Open in
# Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/14_take_it_with_you.ipynb)
#
# **You will learn**
#
# - to write classifier and mechanism to one ONNX file, checked against PyTorch;
# - to run that file without PyTorch, and in ten lines of JavaScript;
# - to make a page in which the network runs in its reader's browser.
#
# **It costs** about 50 seconds and 2 GB of memory on one CPU core; nothing is downloaded.
#
# **Model and photos.** The sample photos and the explainer that ships for an EfficientNet-Lite0
# {cite}`efficientnet` with its ImageNet weights.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate,export] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
photo = "citrus_fruits"  # a sample photo
live = None  # where the network's files lie; the book's build has them, None shows samples only

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

import ttame
from ttame.companion.figures.training import plot_bars
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenance_table, read_benchmark, reference
from ttame.data import samples
from ttame.images import to_raw
from ttame.plotting import plot_grid

setting = open_profile(profile)
path = {path.stem: path for path in samples().paths}
explainer = ttame.load(setting.backbone)
folder = tempfile.TemporaryDirectory()

# %% [markdown]
# Methods that trace gradients back, or that ask the classifier hundreds of times, stay where
# PyTorch is. A trained mechanism is a few more layers of a forward pass: whatever runs the
# classifier runs its explanations, too.
#
# ## One file
#
# `export` writes classifier and mechanism together. Before the file takes its place it is run on
# photos and compared with PyTorch; a file that disagrees is not kept.

# %%
file = Path(folder.name) / "explainer.onnx"
agreement = explainer.export(file, storage="float16", preprocess=True)
print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB, compared on {agreement.photos} photos")
print(f"largest difference: logits {agreement.logits:.4f}, maps {agreement.maps:.4f}")
print(f"the same class is predicted for {agreement.same:.0%} of them")

# %% [markdown]
# Differences are relative to the largest value. `storage="float16"` halves the file: weights are
# rounded, while the network computes in float32 as before. `preprocess=True` puts resizing,
# cropping
# and normalising inside, so that the file takes the pixels of a photo as they are. On the command
# line this is `ttame export explainer.onnx --storage float16 --preprocess`.
#
# ## Without PyTorch
#
# `ttame.Exported` needs onnxruntime, Pillow and numpy, and no other part of this library: copy its
# one source file and replace `TTameError` by `ValueError`.

# %%
exported = ttame.Exported(file)
found = exported.explain(path[photo])
expected = explainer.explain(path[photo])
ours = f"ONNX: {found.name}, {found.probability:.1%}"
torchs = f"PyTorch: {expected.names()[0][0]}, {expected.probabilities()[0, 0]:.1%}"
pictures = [("photo", found.image), (ours, found.overlay())]
shown = [(title, to_raw(picture)) for title, picture in pictures]
plot_grid([[*shown, (torchs, expected.overlay()[0, 0])]])

# %% tags=["remove-input"]
print(f"maps differ by {abs(found.map - expected.maps[0, 0].numpy()).max():.4f} at most")

# %% [markdown]
# *A sample photo as the classifier sees it, and the map of its predicted class by the ONNX file and
# by PyTorch.*
#
# ## How fast it is
#
# The same network without gradients, in the same process, with the same number of threads:

# %% tags=["hide-input"]
speed = read_benchmark(reference("runtime.json"), "runtime")
timed = pd.DataFrame(speed["rows"]).set_index("batch")
parts = {f"{kind}, {program}": timed[f"{key}_{part}_ms"] / timed.index
         for part, kind in (("forward", "plain forward pass"), ("explanation", "explanation"))
         for key, program in (("torch", "PyTorch"), ("onnxruntime", "onnxruntime"))}  # fmt: skip
plot_bars(pd.DataFrame(parts).T.rename(columns="{} at a time".format), "ms per photo")

# %% tags=["remove-input"]
one, many = timed.loc[1], timed.loc[timed.index.max()]
Markdown(
    f"*Medians of {one['repeats']:.0f} runs on {speed['hardware']}.* With onnxruntime "
    f"{speed['onnxruntime']} an explanation takes {one['explanation_ratio']:.2f} times as long as "
    f"with PyTorch for one photo, {many['explanation_ratio']:.2f} times for {timed.index.max()} at "
    "a time."
)

# %% [markdown]
# ## Which networks, and what smaller weights cost
#
# One member of every model family of timm {cite}`timm`, with random weights, was exported and
# compared:

# %% tags=["remove-input"]
families = read_benchmark(reference("export.json"), "export")
tried = pd.DataFrame(families["rows"]).set_index("family")
names = ", ".join(name.removeprefix("timm/") for name in tried.index[~tried["passed"]])
Markdown(
    f"**{tried['passed'].sum()} of {len(tried)} families** come out as ONNX files that agree with "
    "PyTorch" + (f"; {names} do not." if names else ".") + " Differences are relative to the "
    "largest value."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all families", "code_prompt_hide": "Hide the families"}
listed = tried.sort_values("passed", kind="stable")[["model", "megabytes", "maps"]]
listed = listed.rename(columns={"megabytes": "MB", "maps": "largest difference of maps"})
listed.style.format({"MB": "{:.0f}", "largest difference of maps": "{:.0e}"}, na_rep="–")

# %% [markdown]
# Maps computed with rounded weights, compared with those of the exact weights, on held-out photos:

# %% tags=["remove-input"]
storage = read_benchmark(reference("storage.json"), "storage")
found = pd.DataFrame(storage["rows"])
drops = pd.DataFrame(found["AD 50%"].tolist())
change = [
    f"{row.difference:+.1f} ({row.low:+.1f} to {row.high:+.1f})" for row in drops.itertuples()
]
table = pd.DataFrame(
    {
        "photos": found["data"].map({"imagenette/val": "Imagenette", "photos/val": "other kinds"}),
        "weights": found["storage"],
        "MB": found["megabytes"].round(1).astype(str),
        "same class, %": found["same"].map("{:.0f}".format),
        "map correlation": found["correlation"].map("{:.4f}".format),
        "AD at 50 %, change": change,
    }
)
table[table["weights"] != "float32"].style.hide(axis="index")

# %% tags=["remove-input"]
worse = [f"{row['weights']} on {row['photos']}" for (_, row), verdict
         in zip(table.iterrows(), drops["verdict"], strict=True) if verdict == "worse"]  # fmt: skip
Markdown(
    f"*{found['photos'].iloc[0]} photos of each set; the change of {{term}}`Average Drop`, in percentage "
    "points, with 95 % intervals over photos.* "
    + (f"The drop is measurably larger for {' and '.join(worse)}; " if worse else "")
    + ("elsewhere" if worse else "Everywhere")
    + " it cannot be told apart from that of exact weights."
)

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where these numbers come from", "code_prompt_hide": "Hide where these numbers come from"}
headers = {"speed": speed, "families": families, "weights": storage}
origins = {name: provenance_table(header)["provenance"] for name, header in headers.items()}
pd.concat(origins).rename_axis(["of", "fact"]).to_frame().style

# %% [markdown]
# ## As a web page
#
# `explainer.demo("demo.html")`, or `ttame demo demo.html`, writes a page in which the explainer
# runs, with the network and ONNX Runtime inside. Open it, put it on any web host, or send it to a
# colleague. Nothing is sent anywhere: photos stay in the reader's browser.

# %%
page = explainer.demo(Path(folder.name) / "demo.html", path[photo])
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Here is the same page within the text. In the built book its network lies beside it and is loaded
# when you first ask for it:

# %%
ttame.explore(explainer, path[photo], live=live)

# %% [markdown]
# *One sample photo, explained beforehand. Drop a photo of your own on it, or type the name of a
# class.*
#
# ## Ten lines of JavaScript
#
# In a web application the exported file needs the npm package `onnxruntime-web` and a photo from
# a file field. These lines are run by this project's tests.
#
# ```js
# import * as ort from "onnxruntime-web/wasm";
# const session = await ort.InferenceSession.create("explainer.onnx");
# const bitmap = await createImageBitmap(file);
# const canvas = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
# canvas.drawImage(bitmap, 0, 0);
# const rgba = canvas.getImageData(0, 0, bitmap.width, bitmap.height).data;
# const rgb = Uint8Array.from(rgba.filter((_, i) => i % 4 < 3));
# const pixels = new ort.Tensor("uint8", rgb, [1, bitmap.height, bitmap.width, 3]);
# const targets = new ort.Tensor("int64", BigInt64Array.of(-1n), [1]); // -1: the predicted class
# const { logits, explained, maps } = await session.run({ pixels, targets });
# ```
#
# `maps` holds one value per cell; scale it to its own range and enlarge it over the photo's central
# part. Class names, the size of that part and everything else that the network expects are in the
# file's metadata, as JSON under the key `ttame`.
#
# ## Limits
#
# - The page runs the network on one core, since more would need HTTP headers, which a page opened
#   from disk does not have:
#   a few tenths of a second per pass.
# - A browser without WebAssembly, or with too little memory, says so; photos that were explained
#   beforehand are shown all the same.
# - Rounding moves a few pixels across the threshold of a mask. Single answers to masked photos
#   differ from PyTorch's by a few percentage points, and by less than one on average.
# - Layers that depend on the values of an image cannot be exported; the error names the module.
#
# ## What to remember
#
# - An explainer is one forward pass, so it goes wherever its classifier goes.
# - `export` compares what it writes with PyTorch; keep the numbers that it reports.
# - A page with the network inside is one file, and keeps its readers' photos at home.
#
# ## Exercises
#
# **1.** How much smaller is the file with 8-bit weights, and what does that cost?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
small = Path(folder.name) / "small.onnx"
rounded = explainer.export(small, storage="int8", preprocess=True)
print(f"{small.stat().st_size / file.stat().st_size:.0%} of the size")
print(f"largest difference: logits {rounded.logits:.1e}, maps {rounded.maps:.1e}")
print(f"the same class is predicted for {rounded.same:.0%} of the photos")

# %% [markdown]
# **2.** Explain a class of your choice by the ONNX file: the orange among these fruits.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
orange = exported.explain(path[photo], "orange")
folder.cleanup()
plot_grid([[(f"{orange.name}, {orange.probability:.1%}", to_raw(orange.overlay()))]])
