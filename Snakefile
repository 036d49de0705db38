"""The graph of the book: studies are run, notebooks are run, pages are copied, the site is built.

    snakemake --cores N book
    snakemake --cores N book --config 'notebooks={04_training: {steps: 200}}'
    snakemake --cores N ablations

Everything built lies under _build/. Its src/ mirrors the repository's paths, so that the book's
launch buttons, which are made from a page's path, point at files that exist in the repository.

Every study of data/studies is a target, too: what has no record under data/results is run. The
target `every_metric` measures every method by every metric, into _build/every_metric.
"""

import hashlib
import os
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

BUILD = Path("_build")
SOURCE = BUILD / "src"
# The reader's own settings of IPython and matplotlib must not show in the book.
PRIVATE = BUILD.resolve() / "private"
JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")
READER = "tests/helpers/reader.py"

# Notebooks run in their own folder, where a relative path would mean something else.
if "TTAME_DATA" in os.environ:
    os.environ["TTAME_DATA"] = str(Path(os.environ["TTAME_DATA"]).resolve())


def files(folder, pattern="*"):
    """All files below a folder that are part of the project, sorted."""
    found = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)


NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.py"))
PAGES = [*files("book"), "_config.yml", "_toc.yml"]
WEB = files("ttame/companion/page/web")
LIBRARY = [*files("ttame", "*.py"), *WEB]
STUDIES = sorted(path.stem for path in Path("data/studies").glob("*.toml"))
RECORDS = [path for study in STUDIES for path in files(f"data/results/{study}")]
SHIPPED = sorted(
    {
        path
        for kind in ("samples", "classifiers", "explainers", "results", "studies")
        for path in files(f"data/{kind}")
    }
    # Records of studies are outputs here. As inputs of notebooks they would make a build of the
    # book train whatever looks older than it should.
    - set(RECORDS)
)

# The network of the book's live pages: a page of its own, and the scripts that chapters load.
LIVE = BUILD / "live"
RUNTIME = files("data/runtime")
SHOWS_LIVE = ("11_explore", "14_take_it_with_you")

EXECUTED = expand(f"{SOURCE}/notebooks/{{name}}.ipynb", name=NOTEBOOKS)

# The table of contents takes every executed notebook, so those of removed sources must go.
for stale in set(files(SOURCE / "notebooks")) - set(EXECUTED):
    Path(stale).unlink()


def options(wildcards):
    """The command-line form of a notebook's parameters."""
    own = config.get("notebooks", {}).get(wildcards.name, {})
    live = {"live": "../_static/live"} if wildcards.name in SHOWS_LIVE else {}
    values = {"profile": config.get("profile", "quick"), **live, **own}
    return shlex.join(
        word for key, value in values.items() for word in ("-p", f"{key}={value!r}")
    )


def digest(paths):
    """What some files hold, in a few digits."""
    found = hashlib.sha256()
    for path in paths:
        found.update(Path(path).read_bytes())
    return found.hexdigest()[:12]


def whole():
    """A digest of what every page shows or is made by: where it changes, all are made anew.

    Sphinx copies no changed style sheet where no page is out of date.
    """
    made_by = [*files("book/_ext", "*.*"), *files("book/_static"), "_config.yml", "_toc.yml",
               "requirements.txt"]  # fmt: skip
    title = re.compile(r"^(?:# )?# (\w.*)$", re.MULTILINE)
    texts = [Path(path).read_text(encoding="utf-8").split("# ---\n")[-1]
             for path in [*files("notebooks", "*.py"), *files("book", "*.md")]]  # fmt: skip
    titles = [found[1] for text in texts if (found := title.search(text))]
    return digest(made_by) + hashlib.sha256("\n".join(titles).encode()).hexdigest()[:12]


def missing(study):
    """The records that a study lacks, found out only where they are asked for."""

    def found(wildcards):
        from ttame.companion.studies.study import read_study

        folder = f"data/results/{study}"
        runs = read_study(f"data/studies/{study}.toml").missing(folder)
        return [f"{folder}/{run.name}.json" for run in runs]

    return found


localrules: book


rule book:
    input:
        f"{BUILD}/html/index.html",
        f"{BUILD}/checked",
    default_target: True


rule notebook:
    input:
        source="notebooks/{name}.py",
        library=LIBRARY,
        shipped=SHIPPED,
    output:
        f"{SOURCE}/notebooks/{{name}}.ipynb",
    params:
        options=options,
        # Notebooks find Imagenette by themselves; that it came, or is another, calls for a new run.
        data=os.environ.get("TTAME_DATA", Path("data/imagenette").is_dir()),
        records=digest(RECORDS),
    # Several notebooks side by side use the cores better than several threads in one, which
    # spends much of its time importing, decoding images and drawing.
    threads: 1
    shell:
        "mkdir -p {PRIVATE:q} &&"
        " OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}"
        " NUMEXPR_MAX_THREADS={threads} IPYTHONDIR={PRIVATE:q}/ipython"
        " MPLCONFIGDIR={PRIVATE:q}/matplotlib"
        " MPLBACKEND=module://matplotlib_inline.backend_inline"
        " PYDEVD_DISABLE_FILE_VALIDATION=1"
        " {sys.executable:q} -m ttame.companion.notebooks execute {input.source} {output} {params.options}"


rule live:
    input:
        LIBRARY,
        RUNTIME,
        SHIPPED,
    output:
        multiext(str(LIVE) + "/", "demo.html", "runtime.js", "model.js"),
    shell:
        "OMP_NUM_THREADS={threads} {sys.executable:q} -m ttame demo {LIVE}/demo.html --separate"


rule site:
    input:
        EXECUTED,
        PAGES,
        rules.live.output,
        LIBRARY,  # the API pages are made from its docstrings
    output:
        f"{BUILD}/html/index.html",
    params:
        whole=whole(),
    # Only what changed, but from scratch after a failure: Sphinx repeats no warning of a page that
    # it need not read again, so that a second build would pass. Links to what a changed page no
    # longer has are found by the check in a browser.
    shell:
        "echo 'Building the pages'"
        " && mkdir -p {SOURCE} && touch {BUILD}/whole"
        " && if [ '{params.whole}' != \"$(cat {BUILD}/whole)\" ];"
        "    then rm -rf {BUILD}/html {BUILD}/.doctrees; fi"
        " && rm -rf {BUILD}/whole {SOURCE}/book"
        " && cp -Rp book _config.yml _toc.yml {SOURCE}"
        " && cp -Rp {LIVE} {SOURCE}/book/_static/live"
        " && {JUPYTER_BOOK:q} build {SOURCE} --path-output . -nW --keep-going -q"
        " && echo '{params.whole}' > {BUILD}/whole"


rule check:
    input:
        f"{BUILD}/html/index.html",
        READER,
        Path(READER).with_suffix(".js"),
        notebooks=files("notebooks", "*.ipynb"),  # what the launch buttons open
    output:
        touch(f"{BUILD}/checked"),
    params:
        # Without a browser the check is skipped; that one came calls for it.
        browser=runpy.run_path(READER)["chromium"](),
    shell:
        "echo 'Reading the pages in a browser' && {sys.executable:q} {READER} {BUILD}/html"
        " --memory {BUILD}/read.json"


for study in STUDIES:

    rule:
        name:
            study
        input:
            missing(study),


rule run:
    output:
        "data/results/{study}/{run}.json",
    wildcard_constraints:
        study="|".join(STUDIES),
    # The photos of a step are few and small: one core per run gives more runs per hour than several.
    threads: 1
    resources:
        mem_mb=5000,
        runtime=120,
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}"
        " {sys.executable:q} -m ttame study data/studies/{wildcards.study}.toml"
        " --out data/results/{wildcards.study} --work {BUILD:q}/studies/{wildcards.study}"
        " --only {wildcards.run:q}"


# Methods by every metric: their parts, by name, with the options of `ttame evaluate`.
_every = tomllib.loads(Path("data/results/every_metric/parts.toml").read_text("utf-8"))
_shared = _every.pop("shared")
EVERY_METRIC = {
    f"{photos}_{part}": f"{found['options']} --methods {shlex.quote(methods)} {_shared}"
    for photos, found in _every.items()
    for part, methods in found["methods"].items()
}


rule every_metric:
    input:
        expand(f"{BUILD}/every_metric/{{part}}.jsonl.gz", part=EVERY_METRIC),


rule part_of_every_metric:
    output:
        f"{BUILD}/every_metric/{{part}}.jsonl.gz",
    wildcard_constraints:
        part="|".join(EVERY_METRIC),
    params:
        options=lambda wildcards: EVERY_METRIC[wildcards.part],
    threads: 1
    resources:
        mem_mb=4000,
        runtime=1440,
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads}"
        " {sys.executable:q} -m ttame evaluate {params.options} --out {output:q}"
