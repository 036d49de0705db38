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
# # Evaluation
#
# [![Open in Colab](../book/_static/colab.svg)](https://colab.research.google.com/github/ttame-companion/ttame/blob/main/notebooks/06_evaluation.ipynb)
#
# **You will learn**
#
# - what the usual measures ask of an {term}`explanation map <Explanation map>`, in pictures;
# - which of them can be trusted, and which are won by a map that looks at nothing;
# - where T-TAME is ahead of other methods, and where it is behind;
# - whether a map that was optimised for a score explains, or fools.
#
# **It costs** about 1 minute and 2.5 GB of memory on one CPU core; nothing is downloaded. The large
# measurements are read from committed results.
#
# **Model and photos.** EfficientNet-Lite0 {cite}`efficientnet` with its ImageNet weights and the
# shipped explainer. Results are of photos of Imagenette's validation split {cite}`imagenette`, and
# of photos of kinds that training never showed; whatever runs on this page runs on the sample
# photos.

# %% tags=["remove-cell"]
import subprocess
import sys

if "google.colab" in sys.modules:
    package = "ttame[train,evaluate] @ git+https://github.com/ttame-companion/ttame"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)

# %% tags=["parameters", "remove-cell"]
profile = "quick"
photos = None  # of the live run; None: as the profile sets
shown = ["honey_bee", "german_shepherd", "giant_panda"]  # sample photos
seed = 0

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import pandas as pd
import torch
from IPython.display import Markdown, display

import ttame
from ttame.companion.figures.agreement import plot_agreement, plot_margins
from ttame.companion.figures.budgets import plot_budgets
from ttame.companion.figures.curves import plot_drops, plot_insertion, plot_probabilities, plot_road
from ttame.companion.figures.masked import plot_masked, plot_road_series
from ttame.companion.figures.scores import plot_costs, plot_differences, plot_randomization
from ttame.companion.headline import MEASURES, SETS, common_photos, headline, read_comparison
from ttame.companion.notebook_profiles import open_profile
from ttame.companion.shipped import provenances, read_benchmark, reference
from ttame.data import samples
from ttame.evaluation.agreement import BLIND, blind_margins, rank_agreement, unwinnable
from ttame.evaluation.comparison import in_short, paired_differences
from ttame.evaluation.evaluate import evaluate
from ttame.evaluation.randomization import sanity_check
from ttame.evaluation.tables import curves, intervals, per_sample, read_together, scores, summary
from ttame.images import normalize, to_batch
from ttame.methods import METHODS, build
from ttame.records import read_results

setting = open_profile(profile)

# %% [markdown]
# ## What a score asks
#
# Nobody knows the right explanation map. So scores change the photo by the map and ask the
# classifier again: they tell whether it *uses* what the map shows.

# %%
explainer = ttame.load("tf_efficientnet_lite0")
paths = {path.stem: path for path in samples().paths}
images = normalize(to_batch([paths[name] for name in shown], explainer.spec), explainer.spec)
with torch.inference_mode():
    target = explainer.classifier(images).argmax(dim=1)
names = ("T-TAME", "Grad-CAM", "random", "centre Gaussian")
maps = {name: build(name, explainer)(images, target) for name in names}

# %%
pair = {name: maps[name][1:] for name in ("T-TAME", "Grad-CAM")}
plot_masked(explainer, images[1:], target[1:], pair, percentages=[15])

# %% [markdown]
# *Is what the map keeps enough? Each map retains its best 15 % of the pixels, the rest turns grey.
# Above the masked photo, the probability p' that is left of the class and, where the answer has
# changed, the new one.*
#
# {term}`Average Drop` (AD) and {term}`Increase in Confidence` (IC) turn this into numbers: what share
# of its probability the class loses, and on how many photos it gains. They judge the values of a
# map and not only its order.

# %%
walked = {name: maps[name][:1] for name in ("T-TAME", "random")}
plot_road_series(explainer, images[:1], walked, seed=seed)

# %% [markdown]
# *Is the order right? ROAD {cite}`road` removes more and more pixels and fills the holes from
# their surroundings, so that a hole tells little by its shape. A good map loses the answer early
# when its most relevant pixels go first, and keeps it long when they go last. The random map shows
# what the filling alone does.*
#
# These are the measures of this chapter. The [method page](../book/method.md) has their formulas.
#
# | measure | what it asks | better |
# |---|---|---|
# | AD, IC | Is what the map keeps enough for the answer? | low AD, high IC |
# | ROAD, {term}`MoRF` and {term}`LeRF` | Does the answer go with the most relevant pixels, and stay without the least relevant? | low, high |
# | ROAD gap | The two orders in one number: LeRF minus MoRF | high |
# | insertion, deletion | The same with pixels that return to a blurred photo, or turn grey {cite}`rise` | high, low |
# | SDS | Do single cells matter as much as the map says? {cite}`sds` | high, chance 0 |
# | SaCo | Do groups of pixels? {cite}`saco` | high, chance 0 |
# | grid pointing | Of four photos side by side, is the map on the one of the class? {cite}`coda_nets` | high, chance 25 % |
#
# ## Which measures can be trusted
#
# Before methods are ranked by a measure, the measure has to be tested itself. A map that looks at
# neither photo nor class explains nothing. If such a {term}`blind map <Blind map>` comes first, the
# measure ranks by something other than explanation. There are four of them here: noise, all ones, a
# Gaussian about the centre, and Fake-CAM {cite}`fakecam`, which is one
# everywhere but at a single pixel.

# %%
comparisons = {name: read_comparison(name) for name in SETS}
whole = {name: found.complete() for name, found in comparisons.items()}
margins = {name: blind_margins(found) for name, found in whole.items()}
plot_margins(margins)

# %% [markdown]
# *The best blind map minus the best method that looks, paired by photo, with 95 % intervals: right
# of zero the blind map wins. Beside it, its rank among all methods. Three tests: EfficientNet-Lite0
# on two sets of photos, and the transformer of ten classes.*

# %% tags=["hide-input"]
safe = unwinnable(*margins.values())
Markdown(f"**No blind map wins or ties anywhere** in {', '.join(safe[:-1])} and {safe[-1]}.")

# %% [markdown]
# So do not rank methods by AD or IC with all pixels retained, which reward a mask that hides
# nothing; nor by LeRF alone, since a constant map removes scattered pixels that the filling
# restores; nor by deletion, whose grey patches are unlike any photo the classifier has seen.
#
# Do the measures agree with each other?

# %%
agreement = {
    name: rank_agreement(found[~found["method"].isin(BLIND)]) for name, found in whole.items()
}
plot_agreement(agreement["Imagenette"])

# %% [markdown]
# *How two measures rank the methods that look, on Imagenette: Spearman's correlation, red where
# they agree, with a number where the 95 % interval leaves zero out.*
#
# They fall into three groups, because there are three questions. AD, IC, ROAD and deletion ask
# whether the *pixels* are the ones in use. SDS and SaCo ask whether *single regions* matter as much
# as the map says; Occlusion measures just that and is at home there. Insertion stands between the
# two groups. Grid pointing alone asks whether a map follows the *class*. No single number says all
# of it.
#
# ## The headline table
#
# Of the measures that pass, AD and IC are close to what our recipe is trained for, and ROAD's MoRF
# is half of the ROAD gap. Five remain. By them:

# %%
chosen = {}
for name, found in comparisons.items():
    kept = found.long["score"].isin(MEASURES) & ~found.long["method"].isin(BLIND)
    chosen[name] = paired_differences(found.long[kept])
here = chosen["other kinds"]
plot_differences(here, scores=[name for name in MEASURES if name in set(here["score"])])

# %% [markdown]
# *T-TAME (our recipe) against every other method on photos of other kinds: mean paired difference,
# signed so that right of zero T-TAME is better, with 95 % intervals over photos.*

# %%
tables = {name: headline(found) for name, found in comparisons.items()}
for name in ("other kinds", "Imagenette"):
    count = common_photos(comparisons[name])
    display(Markdown(f"**{name[0].upper()}{name[1:]}**, {count} photos"))
    display(tables[name].style.format(precision=1, na_rep="–").format(
        precision=0, subset=["forward", "backward"]))  # fmt: skip

# %% [markdown]
# *Percent, higher is better; best mean rank over the columns first. `T-TAME` is our recipe,
# `T-TAME (published)` the papers' mechanism and objective, trained on the same photos;
# `T-TAME (refined)` takes four gradient steps per photo. `forward` and `backward` count the passes
# of the classifier that one map takes. A dash: not measured.*
#
# In words, from the paired intervals:

# %% tags=["hide-input"]
Markdown("\n\n".join(
    f"**On {'photos of ' if 'kinds' in name else ''}{name}.** {in_short(chosen[name])}"
    for name in ("other kinds", "Imagenette")
))  # fmt: skip

# %% [markdown]
# Most papers compare methods by the order of the pixels alone. By ROAD in both orders, insertion and
# deletion, over all photos that T-TAME and the other method saw:

# %% tags=["hide-input"]
order, said = ["ROAD MoRF", "ROAD LeRF", "insertion", "deletion"], []
for name in ("other kinds", "Imagenette"):
    found = comparisons[name].long
    kept = found["score"].isin(order) & ~found["method"].isin(BLIND)
    pairs = paired_differences(found[kept])
    for count, rows in sorted(pairs.groupby("photos"), reverse=True):
        against = ", ".join(rows["against"].unique())
        said.append(
            f"**{name[0].upper()}{name[1:]}, {count} photos**, against {against}. {in_short(rows)}"
        )
Markdown("\n\n".join(said))

# %% tags=["remove-input"]
boards = {"four": "mosaics_imagenette", "nine": "mosaics3_imagenette"}
right = {count: summary(reference(f"every_metric/{file}.jsonl"))["pointing"]
         for count, file in boards.items()}  # fmt: skip
Markdown(
    "Grid pointing adds up all positive values of a map of several photos side by side, and the "
    "maps of our recipe are positive everywhere. Where their *highest* value lies is another "
    "question (and [GPU training](04_training.ipynb) asks a third one, of maps scaled to their own "
    "range): it lies on the photo of the asked class "
    + ", ".join(
        f"in {of['T-TAME']:.0f}\u00a0% of the mosaics of {count} photos (Grad-CAM "
        f"{of['Grad-CAM']:.0f}\u00a0%, T-TAME as published {of['T-TAME (published)']:.0f}\u00a0%)"
        for count, of in right.items()
    )
    + "."
)

# %% [markdown]
# ## What T-TAME is trained for
#
# Training asks that the masked photo keeps its class, which is what AD measures. So AD and IC are
# home ground: a lead there is no surprise, although it is what a user sees in a masked photo.

# %%
files = [f"kinds_val{part}.jsonl" for part in ("", "_published", "_cam")]
headers, other = read_together(*[reference(name) for name in files])
alone, ablation = read_results(reference("kinds_val_ablation.jsonl"))
long = pd.concat([scores(other), scores(ablation)])
masked = [f"{metric} {share}%" for share in (50, 15) for metric in ("AD", "IC")]
differences = paired_differences(long[long["score"].isin(masked)])
plot_differences(differences, scores=masked)

# %% [markdown]
# *Paired differences as above, on photos of other kinds. `Grad-CAM (saturated)` has Grad-CAM's
# order and the values with which T-TAME's training starts: what it gains over Grad-CAM is due to
# values alone.*

# %% tags=["hide-input"]
kinds = ("", "_more", "_published", "_lcam", "_cam", "_ablation", "_other", "_score", "_rise")
home_files = [f"imagenette_val{kind}.jsonl" for kind in kinds]
home_headers, home = read_together(*[reference(name) for name in home_files])
home_long = scores(home)
home_differences = paired_differences(home_long[home_long["score"].isin(masked)])
against_looking = [
    found[~found["against"].isin(BLIND)] for found in (differences, home_differences)
]
Markdown(
    f"**On photos of other kinds.** {in_short(against_looking[0])}\n\n"
    f"**On Imagenette.** {in_short(against_looking[1])} Blind maps are not counted."
)

# %% [markdown]
# ## What quality costs

# %% tags=["hide-input"]
everyone = home.groupby("photo")["method"].transform("nunique") == home["method"].nunique()
together = summary(home[everyone])
together["gap"] = together["ROAD LeRF"] - together["ROAD MoRF"]
benchmark = read_benchmark(reference("benchmark.json"))
costs = pd.DataFrame(benchmark["methods"]).set_index("method")
# RISE was timed at its default number of masks; its cost is linear in them.
share = home.loc[home["method"] == "RISE", "forward"].mean() / costs.loc["RISE", "forward"]
costs.loc["RISE", ["ms", "ratio"]] *= share
together["time"] = costs["ratio"]
plot_costs(together, "time", {"gap": "ROAD gap"}, "time for one map, in plain forward passes",
           controls=BLIND)  # fmt: skip

# %% [markdown]
# *The time of one map, in units of the prediction itself on the same machine, against the ROAD gap,
# on the photos of Imagenette that all methods saw. Hollow marks are blind maps. Training the
# mechanism, which is done once for a classifier, is not in these times.*
#
# ## What more passes buy
#
# T-TAME's map can be refined: its 7 × 7 values, enlarged to 14 × 14, are the start of a few
# gradient steps for the one photo at hand. Opti-CAM {cite}`opticam` optimises a map of its own, RISE
# {cite}`rise` averages over random masks. What does each make of the same number of passes?

# %%
refinement = read_benchmark(reference("refinement.json"), "refinement")
budgets = pd.DataFrame(refinement["rows"])
budgets["budget"] = budgets["forward"] + budgets["backward"]
kinds_budgets = budgets[budgets["data"] == "photos/val"]
plot_budgets(kinds_budgets, ["AD 50%", "IC 50%", "AD 15%", "IC 15%"])

# %% [markdown]
# *Photos of other kinds: mean scores with 95 % intervals against the passes of the classifier for
# one map, forward and backward, on a logarithmic axis. T-TAME begins at one pass, the prediction
# itself.*

# %% tags=["hide-input"]
half = budgets[budgets["score"] == "AD 50%"]
sets = {"imagenette/val": "photos of Imagenette", "photos/val": "photos of other kinds"}
lines = []
for name, found in half.groupby("data", sort=False):
    ours, others = (found[(found["method"] == "T-TAME (refined)") == own] for own in (True, False))
    leads = []
    for rival, rows in others.groupby("method", sort=False):
        short = ours.loc[ours[f"verdict against {rival}"] != "better", "budget"].max()
        longer = ours.loc[~(ours["budget"] <= short), "budget"].min()  # all beyond are ahead
        needed = "no budget is enough" if pd.isna(longer) else f"{longer:.0f}"
        leads.append(f"{needed} against {rival}'s {rows['budget'].max():.0f}")
    lines.append(f"- on {sets[name]} ({found['photos'].max()}): {', '.join(leads)}")
low = budgets[(budgets["method"] == "T-TAME (refined)") & (budgets["score"] == "AD 15%")]
low = low.set_index("budget").sort_index().groupby("data", sort=False)["mean"]
harm = ", ".join(
    f"from {means.iloc[0]:.0f} to {means.iloc[-1]:.0f}\u00a0% on {sets[name]}"
    for name, means in low
)
Markdown(
    "To be ahead by AD at 50\u00a0%, beyond chance, refined T-TAME needs so many passes:\n\n"
    + "\n".join(lines)
    + f"\n\nWith 15\u00a0% of the pixels, more passes do harm: from the first to the last budget AD "
    f"rises {harm}. Refinement optimises masks that keep all pixels or half of them, not those "
    "that keep the best few."
)

# %% [markdown]
# ## Does refinement explain, or does it fool?
#
# Refinement optimises each map for the very score that AD and IC measure. A mask that only fools
# this classifier would not help another. So the same masks were put before two larger classifiers,
# which had no part in them.

# %%
transfer = pd.DataFrame(read_benchmark(reference("transfer.json"), "transfer")["rows"])
order = [f"{metric} {share}%" for metric in ("AD", "IC") for share in (100, 50, 15)]
plot_differences(transfer.rename(columns={"classifier": "against"}), "refined", order)

# %% [markdown]
# *Refined maps of EfficientNet-Lite0 minus its plain ones, as two other classifiers judge them, for
# the class that Lite0 predicts: right of zero refinement helps them, too. Mean paired differences
# with 95 % intervals over photos.*

# %% tags=["hide-input"]
verdicts = transfer["verdict"].value_counts()
gained = transfer.loc[transfer["verdict"] == "better", "score"].unique()
Markdown(
    f"Of {len(transfer)} comparisons, refined maps are better in {verdicts.get('better', 0)} "
    f"({', '.join(gained)}), worse in {verdicts.get('worse', 'none')}; in "
    f"{verdicts.get('open', 0)}, no difference is shown. "
    + ("Refinement explains: what it gains, it gains for classifiers that it never "
       "asked, and nowhere at their cost, with the few passes of this test." if "worse" not in verdicts else
       "Where it is worse, it has fooled the classifier it was made for.")
)  # fmt: skip

# %% [markdown]
# ## Larger networks
#
# The same recipe, untuned, on EfficientNet-Lite1 and Lite2, whose photos have 240 and 260 pixels a
# side.

# %% tags=["hide-input"]
larger, pairs = {}, {}
for network in ("Lite1", "Lite2"):
    for place, photos_of in (("imagenette", "Imagenette"), ("kinds", "other kinds")):
        file = f"{network.lower()}_{place}_val.jsonl"
        larger[file], found = read_results(reference(file))
        long = scores(found)
        pairs[f"{network}, {photos_of}"] = paired_differences(long[long["score"].isin(masked)])
beaten = pd.concat([found[found["against"] == "Grad-CAM"].assign(against=name)
                    for name, found in pairs.items()])  # fmt: skip
plot_differences(beaten, "T-TAME")

# %% [markdown]
# *T-TAME against Grad-CAM, photo by photo: right of zero, T-TAME is ahead. Lines are 95 % intervals
# over photos.*

# %% tags=["remove-input"]
Markdown("\n\n".join(f"**{name}.** {in_short(found)}" for name, found in pairs.items()))

# %% [markdown]
# ## Measure it yourself
#
# One call measures methods on any photos and writes a record of every photo and method; an
# interrupted run continues where it stopped.

# %%
measured = setting.photos("val").sample(photos or setting.pick(18, 500, 2000), seed)
runs = tempfile.TemporaryDirectory()
out = evaluate(explainer, measured, Path(runs.name) / "live.jsonl", seed=seed,
               methods=["T-TAME", "Grad-CAM", "centre Gaussian", "all ones"])  # fmt: skip
live = read_results(out)[1]
summary(live).filter(regex="^(AD|IC)|photos").style.format(precision=1)

# %% [markdown]
# *Means in percent on the sample photos: enough to see how it is done, too few to rank methods.*
#
# ## The sanity check
#
# A map of what the classifier has learnt must change when the classifier forgets it. The
# {term}`sanity check <Sanity check>` {cite}`sanity_checks` gives the layers new random weights, one
# after another from the head downwards, and compares the maps.

# %%
checked = ("T-TAME", "Grad-CAM", "centre Gaussian")
checks = [
    sanity_check(explainer, METHODS[name], images, target, stages=5, seed=seed).assign(method=name)
    for name in checked
]
plot_randomization(pd.concat(checks))

# %% [markdown]
# *Rank correlation between the maps of the intact classifier and of the partly randomised one;
# lines are means over photos. Near zero is good. The Gaussian cannot react. T-TAME does not read
# the head, so that its map stays the same until randomisation reaches the layer that it reads.*
#
# ## Details
#
# **What changes numbers.** The target is the classifier's own prediction, right or wrong. Every map
# is scaled for its photo alone. Exactly the stated share of pixels is retained or removed, and ties
# are broken by a seeded shuffle: a constant map picks its pixels by lot. A
# {term}`degenerate map <Degenerate map>` is scored all the same and counted. All rows of a table
# share one {term}`masking space <Masking space>`. Nothing is corrected for the number of
# comparisons: where methods do not differ at all, one interval in twenty leaves zero out by chance.
#
# The tables below are folded: all means on Imagenette, their intervals, and the provenance.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all means", "code_prompt_hide": "Hide the means"}
listed = sorted(home["method"].unique(), key=list(METHODS).index)
full = summary(home).loc[listed]
display(full.filter(regex="^(AD|IC)|^photos").style.format(precision=1, na_rep="–"))
walked = home[home["road_morf"].notna()].groupby("method").size().rename("photos")
order_only = full.filter(regex="^ROAD|tion$|forward|backward").join([costs["ms"], walked])
display(order_only.style.format(precision=1, na_rep="–").format(
    precision=0, subset=["forward", "backward", "photos"]))  # fmt: skip

# %% [markdown]
# *Means in percent, in either table over the number of photos that its last columns state; where
# that is smaller, they are the first of the same photos. `ms`: time of one map, from the benchmark;
# Ablation-CAM and IIA repeat only the part of the classifier behind their layer.*

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show all intervals", "code_prompt_hide": "Hide the intervals"}
bounds = intervals(home)
bounds["shown"] = [
    f"{low:.1f}\u00a0to\u00a0{high:.1f}"
    for low, high in zip(bounds["low"], bounds["high"], strict=True)
]
spread = bounds.pivot(index="method", columns="score", values="shown").loc[listed]
spread = spread.rename_axis(index=None, columns=None)
display(spread[order])
display(spread.filter(regex="^ROAD.*RF$|tion$"))

# %% [markdown]
# *95 % bootstrap intervals over photos. Intervals of two methods may overlap although one is better
# on nearly every photo: compare by paired differences.*

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show where the numbers come from", "code_prompt_hide": "Hide where the numbers come from"}
made = dict(zip([*home_files, *files], [*home_headers, *headers], strict=True))
for found in comparisons.values():
    made |= found.headers
made |= {**larger, "kinds_val_ablation.jsonl": alone, "refinement.json": refinement}
made["transfer.json"] = read_benchmark(reference("transfer.json"), "transfer")
made["mosaics3_imagenette.jsonl"] = read_results(
    reference("every_metric/mosaics3_imagenette.jsonl")
)[0]
provenances(made).style.set_properties(**{"text-align": "left"})

# %% [markdown]
# *Where the numbers of this page come from: what the files share, then what each has of its own.
# Times are of `benchmark.json`, as in [Every number](15_reproduce.ipynb).*
#
# ## What to remember
#
# - Test the measure before the method: AD and IC with all pixels retained, LeRF alone and deletion
#   are won or tied by maps that look at nothing.
# - Measures answer three questions: are these the pixels in use, do single regions matter, does the
#   map follow the class. No method is best at all three.
# - Compare methods photo by photo, and state the interval.
# - T-TAME is trained for AD and ahead there; by measures that it was not trained for, its lead is
#   smaller or gone.
#
# What all of this leaves out, such as whether a person understands the map, is in [the
# limitations](../book/limitations.md).
#
# ## Exercises
#
# **1.** Means hide how a method fails. On how many photos does masking half of the pixels raise the
# probability, and where does it ruin the answer?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
display(plot_probabilities(live, 50))
plot_drops(per_sample(live))

# %% [markdown]
# **2.** Draw ROAD's curves, and those of insertion and deletion, of T-TAME, Grad-CAM and the random
# map. By which curve would you tell the random one?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
few = other[other["method"].isin(["T-TAME", "Grad-CAM", "random"])]
display(plot_road(curves(few, "ROAD")))
plot_insertion(curves(few, "insertion/deletion"))

# %% [markdown]
# **3.** Average Gain was proposed because AD is easily fooled. Is it safe from blind maps?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
gain = home_long[home_long["score"].str.startswith("AG")]
seen = gain.groupby("method")["photo"].transform("nunique")
blind_margins(gain[seen == seen.max()])[["blind", "rank", "methods", "verdict"]]
