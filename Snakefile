"""The graph of the book: notebooks are run, pages are copied, the site is built.

    snakemake --cores N book
    snakemake --cores N book --config 'notebooks={04_training: {steps: 200}}'

Everything built lies under _build/. Its src/ mirrors the repository's paths, so that the book's
launch buttons, which are made from a page's path, point at files that exist in the repository.
"""

import os
import shlex
import sys
from pathlib import Path

BUILD = Path("_build")
SOURCE = BUILD / "src"
# The reader's own settings of IPython and matplotlib must not show in the book.
PRIVATE = BUILD.resolve() / "private"
JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")

# Notebooks run in their own folder, where a relative path would mean something else.
if "TTAME_DATA" in os.environ:
    os.environ["TTAME_DATA"] = str(Path(os.environ["TTAME_DATA"]).resolve())


def files(folder, pattern="*"):
    """All files below a folder that are part of the project, sorted."""
    found = (path for path in Path(folder).rglob(pattern) if path.is_file())
    return sorted(str(path) for path in found if "__pycache__" not in path.parts)


NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.py"))
PAGES = [*files("book"), "_config.yml", "_toc.yml"]
LIBRARY = [*files("ttame", "*.py"), *files("ttame", "*.html")]
SHIPPED = [
    path
    for kind in ("samples", "classifiers", "explainers", "results", "studies")
    for path in files(f"data/{kind}")
]

EXECUTED = expand(f"{SOURCE}/notebooks/{{name}}.ipynb", name=NOTEBOOKS)

# The table of contents takes every executed notebook, so those of removed sources must go.
for stale in set(files(SOURCE / "notebooks")) - set(EXECUTED):
    Path(stale).unlink()


def options(wildcards):
    """The command-line form of a notebook's parameters."""
    own = config.get("notebooks", {}).get(wildcards.name, {})
    values = {"profile": config.get("profile", "quick"), **own}
    return shlex.join(
        word for key, value in values.items() for word in ("-p", f"{key}={value!r}")
    )


localrules: book


rule book:
    input:
        f"{BUILD}/html/index.html",
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
        " {sys.executable:q} -m ttame.notebooks execute {input.source} {output} {params.options}"


rule site:
    input:
        EXECUTED,
        PAGES,
        LIBRARY,  # the API pages are made from its docstrings
    output:
        f"{BUILD}/html/index.html",
    # From scratch each time: Sphinx repeats no warning of a page that it need not read again, so
    # that after a failure a second, incremental build would pass.
    shell:
        "echo 'Building the pages'"
        " && rm -rf {BUILD}/html {BUILD}/.doctrees {SOURCE}/book && mkdir -p {SOURCE}"
        " && cp -R book _config.yml _toc.yml {SOURCE}"
        " && {JUPYTER_BOOK:q} build {SOURCE} --path-output . -nW --keep-going -q"
