"""The book: its files exist, its names agree, and nothing names a machine or a registry."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch
import typer
import yaml
from pybtex.database import parse_file
from pybtex.plugin import find_plugin

import ttame
from tests.helpers.reader import NAMES as BROWSERS
from ttame.cli.main import app
from ttame.methods import METHODS
from ttame.plotting import Picture, plot_grid

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
URL: str = CONFIG["repository"]["url"]


def project_files() -> list[Path]:
    """Everything that is or is about to be committed, as git sees it."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[str, str]:
    """The text of every project file that is text, by its path in the repository."""
    found = {}
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content[:8192]:
            found[path.relative_to(ROOT).as_posix()] = content.decode("utf-8", errors="replace")
    return found


def pages() -> dict[str, str]:
    folder = ROOT / "book"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.md")}
    return {name: path.read_text(encoding="utf-8") for name, path in found.items()}


# Structure


def test_every_page_is_in_the_table_of_contents_once_and_exists() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    below = [section for chapter in entries for section in chapter.get("sections", [])]
    listed = [toc["root"], *(entry["file"] for entry in [*entries, *below])]
    assert len(listed) == len(set(listed))
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.py")}
    assert set(listed) == {f"book/{name.removesuffix('.md')}" for name in pages()} | notebooks
    (numbered,) = (part["chapters"] for part in toc["parts"] if part.get("numbered"))
    numbers = [int(entry["file"].removeprefix("notebooks/")[:2]) for entry in numbered]
    assert numbers == list(range(1, len(notebooks))), "numbers in the sidebar are those of files"


def test_glossary_terms_that_pages_link_to_exist() -> None:
    glossary = pages()["glossary.md"].split(":::{glossary}")[1]
    terms = {line.lower() for line in glossary.splitlines() if re.match(r"[A-Za-z]", line)}
    assert len(terms) > 40
    for name, text in texts().items():
        for shown in re.findall(r"\{term\}`([^`]+)`", text):
            target = re.fullmatch(r".*<(.+)>", shown)
            assert (target[1] if target else shown).lower() in terms, f"{name}: {shown}"


def test_the_books_address_is_derived_from_the_repository() -> None:
    owner, name = URL.removeprefix("https://github.com/").split("/")
    address = f"https://{owner}.github.io/{name}/"
    assert address in texts()["README.md"]
    for page, text in texts().items():
        assert set(re.findall(r"https://[\w-]+\.github\.io/[\w-]+/", text)) <= {address}, page


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=str)
def test_workflows_pin_actions_and_ask_for_little(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 360, f"{name}: a hosted runner stops after six hours"
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")), name
        granted = job.get("permissions", workflow.get("permissions", {}))
        writes = {key for key, value in granted.items() if value == "write"}
        assert writes <= {"pages", "id-token"}, name
        assert not writes or not any("run" in step for step in job["steps"]), name


def test_conda_environment_is_that_of_the_lock_file() -> None:
    found = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = found["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    compiled = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert compiled
    assert conda == [f"python={compiled[1]}", "pip"]


def test_container_has_what_the_two_commands_need() -> None:
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    compiled = re.search(r"--python-version (\S+)", (ROOT / "Makefile").read_text("utf-8"))
    assert compiled
    assert f"FROM python:{compiled[1]}-slim" in text
    packages = re.search(r"apt-get install (?:--\S+ )*(.+?) \\", text)
    assert packages
    assert {"git", "make"} <= set(packages[1].split())
    assert set(packages[1].split()) & set(BROWSERS)
    assert 'CMD ["make", "book"]' in text
    left_out = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {".venv", "_build", ".snakemake"} <= set(left_out)
    kept = {path.relative_to(ROOT).as_posix() for path in project_files()}
    for line in (line for line in left_out if not line.startswith(("#", "**"))):
        assert not any(name == line or name.startswith(f"{line}/") for name in kept), line


def test_citation_names_the_software_and_both_papers() -> None:
    """What the Citation File Format 1.2.0 requires of the fields that are used here."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert cited["version"] == ttame.__version__
    assert re.fullmatch(r"10\.\d{4,9}/\S+", cited.get("doi", "10.1234/to-come"))
    assert ("doi" in cited) == ("date-released" in cited)  # an archive gives both
    kinds = {reference["type"] for reference in cited["references"]}
    assert kinds == {"conference-paper", "article"}
    for work in [cited, *cited["references"]]:
        assert work["title"]
        assert work["authors"]
        for author in work["authors"]:  # an entity has a name, a person any of the others
            person = {"family-names", "given-names"}
            assert set(author) == {"name"} or set(author) <= person, author
    for reference in cited["references"]:
        assert re.fullmatch(r"10\.\d{4,9}/\S+", reference["doi"])
        assert isinstance(reference["year"], int)


def test_api_pages_list_every_module() -> None:
    package = ROOT / "ttame"
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        # The package itself only re-exports, and the command line documents itself by --help.
        if path not in (package / "__init__.py", package / "__main__.py")
        and (path.parent != package / "cli" or path.name == "terminal.py")
    }
    text = "".join(text for name, text in pages().items() if name.startswith("api"))
    listed = re.findall(r"automodule:: (\S+)", text)
    assert len(listed) == len(set(listed))
    assert modules - set(listed) == set(), "give these modules a place in book/api/"
    assert set(listed) - modules == set(), "these are in book/api/ but not in the library"


def test_citations_exist() -> None:
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text(), re.MULTILINE)
    assert len(keys) == len(set(keys))
    prose = [text for name, text in texts().items() if name.endswith((".md", ".py"))]
    cited = {
        key.strip()
        for text in prose
        for group in re.findall(r"(?:\{cite(?::\w+)?\}|:cite(?::\w+)?:)`([^`]+)`", text)
        for key in group.split(",")
    }
    assert cited
    assert cited <= set(keys)


# Where each method of the tables comes from; those without a paper of their own are told why.
SOURCES = {
    "T-TAME": "ttame", "T-TAME (refined)": "ttame", "T-TAME (published)": "ttame",
    "T-TAME (published with tied rows)": "ttame", "P-TAME": "ptame", "Grad-CAM": "gradcam",
    "Grad-CAM (saturated)": "gradcam", "Grad-CAM++": "gradcampp", "XGrad-CAM": "xgradcam",
    "Layer-CAM": "layercam", "Eigen-CAM": "eigencam", "Score-CAM": "scorecam",
    "Ablation-CAM": "ablationcam", "Finer-CAM": "finercam", "RefineCAM": "refinecam",
    "Opti-CAM": "opticam", "IIA": "iia", "L-CAM-Img": "lcam", "L-CAM-Fm": "lcam",
    "amortised Shapley": "vitshapley", "attention rollout": "rollout",
    "Transformer attribution": "chefer_generic", "LeGrad": "legrad", "LibraGrad": "libragrad",
    "AttnLRP": "attnlrp", "RISE": "rise", "Integrated Gradients": "integrated_gradients",
    "SmoothGrad": "smoothgrad", "Occlusion": "occlusion", "Fake-CAM": "fakecam",
}  # fmt: skip
BLIND_OF_OUR_OWN = {"random", "all ones", "centre Gaussian"}


def test_every_method_of_the_tables_is_cited_where_methods_are_told_apart() -> None:
    assert SOURCES.keys() | BLIND_OF_OUR_OWN == METHODS.keys()
    related = pages()["method.md"].split("## Related methods")[1]
    cited = {
        key.strip()
        for group in re.findall(r"\{cite\}`([^`]+)`", related)
        for key in group.split(",")
    }
    assert set(SOURCES.values()) <= cited
    # The names stand there as in the tables, so that a search finds them.
    for name in SOURCES.keys() | BLIND_OF_OUR_OWN:
        assert name.removeprefix("T-TAME ").strip("()") in related, name


def test_labels_tell_all_entries_of_the_bibliography_apart() -> None:
    extension("citations").setup(None)
    database = parse_file(ROOT / "book/references.bib")
    style = find_plugin("pybtex.style.formatting", "author_year")()
    found = style.format_bibliography(database)
    labels = {entry.key: entry.label for entry in found}
    assert len(labels) == len(set(labels.values())) == len(database.entries)
    assert labels["gradcam"] == "Selvaraju et al., 2017"
    assert labels["eigencam"] == "Muhammad and Yeasin, 2020"
    assert labels["timm"] == "Wightman, 2019"
    assert labels["coda_nets"] == "Böhle et al., 2021"
    assert labels["imagenette"] == "Howard and fast.ai, 2019"
    assert not any(set(label) & set("{}\\") for label in labels.values())
    order = [entry.key for entry in found]
    assert order.index("papermill") < order.index("rise")  # nteract before Petsiuk
    both = {labels["chefer_generic"], labels["chefer_attribution"]}
    assert both == {"Chefer et al., 2021a", "Chefer et al., 2021b"}


# Names that must agree


def test_repository_is_named_alike_everywhere() -> None:
    found = texts()
    assert f'Repository = "{URL}"' in found["pyproject.toml"]
    assert f"repository-code: {URL}\n" in found["CITATION.cff"]
    slug = URL.removeprefix("https://github.com/")
    host = "colab.research.google.com"  # joined below, so that this file does not find itself
    colab = f"https://{host}/github/{slug}/blob/main/notebooks/"
    assert colab in found["README.md"]
    for name, text in found.items():
        owned = re.findall(rf"github(?:\.com)?/({slug.split('/')[0]}/[\w-]+)", text)
        assert set(owned) <= {slug}, name
        for link in re.findall(rf"https://{host}/github/[^\s)\"'\\]+", text):
            assert link.startswith(colab), name
            assert (ROOT / "notebooks" / Path(link).name).is_file(), f"{name}: {link}"


def test_readme_links_to_files_that_exist() -> None:
    for page in ("README.md", "CONTRIBUTING.md", "data/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", text):
            assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_pins_cover_every_requirement() -> None:
    """The lock file is compiled by hand; a requirement added since would be missing from it."""
    normal = re.compile(r"[-_.]+")
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = {normal.sub("-", name).lower() for name in re.findall(r"^([\w.-]+)==", lock, re.M)}
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    wanted = re.findall(r'^    "([A-Za-z][\w.-]*)(?:[<>=~!][^"]*)?",?$', lines, re.MULTILINE)
    assert {normal.sub("-", name).lower() for name in wanted} <= pinned


# Nothing of one machine


def test_no_machine_or_registry_is_named() -> None:
    # Put together here so that this file does not find itself.
    folders = "|".join(["/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/[a-z]"])
    hosts = "|".join(
        ["pypi" + r"\.org/simple", "files" + r"\.python" + "hosted", "--index" + "-url"]
    )
    pattern = re.compile(rf"(?<![\w.])(?:{folders})|{hosts}")
    for name, text in texts().items():
        found = pattern.search(text)
        assert found is None, f"{name}: {found[0] if found else ''}"


# Nothing from the network


def extension(name: str) -> ModuleType:
    path = ROOT / "book" / "_ext" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("signature", "read"),
    [
        (
            "(size: Annotated[int, Bounds(low=1, high=None, above=False)] | None = None)",
            "(size: int | None = None)",
        ),
        (
            "(a: ~typing.Annotated[float, Bounds(0, 1)] = 0.5, b: list[int] = <factory>)",
            "(a: float = 0.5, b: list[int] = ...)",
        ),
        ("(a: Literal['x'] = 'x') -> int", "(a: Literal['x'] = 'x') -> int"),
        (
            "(see: ~collections.abc.Callable[[~torch.Tensor], None] = <function <lambda>>, b: int)",
            "(see: Callable[[Tensor], None] = ..., b: int)",
        ),
    ],
)
def test_signatures_are_shown_without_bounds(signature: str, read: str) -> None:
    assert extension("signatures").plain(signature) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("RISE (`rise`): masks.", "RISE :cite:`rise`: masks."),
        ("As in (`rise`, `road`; ours)", "As in (:cite:`rise,road`; ours)"),
        ("the masks of (`rise`, equation 6)", "the masks of (:cite:`rise`, equation 6)"),
        ("like {cite}`fastshap,vitshapley`", "like :cite:`fastshap,vitshapley`"),
        ("the mean (`mean`) of `rise`", "the mean (`mean`) of `rise`"),
    ],
)
def test_docstrings_cite(text: str, read: str) -> None:
    assert extension("signatures").cited(text, ["rise", "road"]) == read


def test_percentages_are_tied_to_their_numbers() -> None:
    tied = extension("typography").tied
    assert tied("95 % of 3 or 4.5 %") == "95\u00a0% of 3 or 4.5\u00a0%"
    assert tied("100% and a % b") == "100% and a % b"


@pytest.fixture(scope="module")
def offline() -> ModuleType:
    return extension("offline")


@pytest.mark.parametrize(
    ("page", "fetched"),
    [
        ('<script src="https://cdn.example/x.js"></script>', ["https://cdn.example/x.js"]),
        ('<img alt="" src="//images.example/x.png">', ["//images.example/x.png"]),
        ('<link rel="stylesheet" href="http://s.example/a.css">', ["http://s.example/a.css"]),
        ('<link rel="canonical" href="https://book.example/a.html">', []),
        ('<a href="https://example.org">followed by readers only</a>', []),
        ('<script src="../_static/x.js"></script><img src="data:image/png;base64,AA">', []),
    ],
)
def test_requests_of_a_page_are_found(
    offline: ModuleType, tmp_path: Path, page: str, fetched: list[str]
) -> None:
    built = tmp_path / "page.html"
    built.write_text(page, encoding="utf-8")
    assert offline.requests_of(built) == fetched


def test_requests_of_a_style_sheet_are_found(offline: ModuleType, tmp_path: Path) -> None:
    sheet = tmp_path / "page.css"
    sheet.write_text(
        '@import "https://f.example/a.css"; p {background: url(b.png)} '
        "q {background: url('//f.example/c.png')}",
        encoding="utf-8",
    )
    assert offline.requests_of(sheet) == ["https://f.example/a.css", "//f.example/c.png"]


# Images say what they show


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    return extension("pictures")


@pytest.mark.parametrize(
    ("image", "silent"),
    [
        ('<img src="a.svg" alt="A rising line.">', []),
        ('<img src="a.svg">', ["a.svg"]),
        ('<img src="a.svg" alt="  ">', ["a.svg"]),
        ('<img src="_images/a.png" alt="../images/a.png">', ["_images/a.png"]),
    ],
)
def test_images_without_alternative_text_are_found(
    pictures: ModuleType, tmp_path: Path, image: str, silent: list[str]
) -> None:
    built = tmp_path / "page.html"
    built.write_text(f"<p>{image}</p>", encoding="utf-8")
    assert pictures.images_without_alt(built) == silent


def test_figures_of_a_page_get_their_text_and_their_link(tmp_path: Path) -> None:
    """A small site: two figures that carry descriptions, and an image that says nothing."""
    source, built = tmp_path / "source", tmp_path / "built"
    (source / "notebooks").mkdir(parents=True)
    (source / "conf.py").write_text("extensions = ['pictures']\n", encoding="utf-8")
    figure = Picture(figsize=(1, 1), alt='A line, "rising" & falling.')
    figure.subplots().plot([0, 1, 0])
    (source / "notebooks" / "line.svg").write_text(figure.svg(), encoding="utf-8")
    photo = plot_grid([[("noise", torch.rand(3, 8, 8))]])
    assert isinstance(photo, Picture)
    (source / "notebooks" / "photo.svg").write_text(photo.svg(), encoding="utf-8")
    badge = '<svg xmlns="http://www.w3.org/2000/svg" width="2" height="2"/>'
    (source / "notebooks" / "badge.svg").write_text(badge, encoding="utf-8")
    silent = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
    (source / "silent.svg").write_text(silent, encoding="utf-8")
    page = "Page\n====\n\n.. image:: line.svg\n\n.. image:: photo.svg\n"
    page += "\n.. image:: badge.svg\n   :alt: Badge\n   :target: https://example.org\n"
    (source / "notebooks" / "page.rst").write_text(page, encoding="utf-8")
    index = "Index\n=====\n\n.. toctree::\n\n   notebooks/page\n\n.. image:: silent.svg\n"
    (source / "index.rst").write_text(index, encoding="utf-8")

    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(built)]
    paths = {"PYTHONPATH": str(ROOT / "book" / "_ext")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **paths})

    html = (built / "notebooks" / "page.html").read_text(encoding="utf-8")
    light, dark = (
        re.findall(rf'<img[^>]*class="figure only-{theme}"[^>]*>', html)
        for theme in ("light", "dark")
    )
    assert len(light) == len(dark) == 2
    for image in (light[0], dark[0]):
        assert 'alt="A line, &quot;rising&quot; &amp; falling."' in image
    for image in (*light, *dark):
        assert 'loading="lazy"' in image
        shown = re.search(r'src="([^"]+)"', image)
        assert shown
        assert (built / "notebooks" / shown[1]).is_file()
    for number in (1, 2):
        link = re.search(rf'href="([^"]+)" download="page-{number}.svg"', html)
        assert link
        assert f'src="{link[1]}"' in light[number - 1]
    assert html.count("download=") == 2  # the badge is a link already
    assert done.returncode == 1
    assert "index.html: image _images/silent.svg has no alternative text" in done.stderr
    assert done.stderr.count("alternative text") == 2  # of the light image and of the dark one
    assert (built / "_static" / "pictures.css").is_file()


@pytest.mark.parametrize(
    ("light", "dark"),
    [
        ("#000000", "#e0e0e0"),  # black becomes soft white: 88 % of 255 is 224
        ("#fff", "#191919"),  # white becomes nearly black: 10 % of 255 is 25
        ("#ff0000", "#fa0000"),  # pure red has lightness 0.5, turned 0.49, and stays red
    ],
)
def test_drawn_colours_turn_their_lightness_on_dark_pages(
    pictures: ModuleType, light: str, dark: str
) -> None:
    # Names of parts look like colours, and so might pixels.
    kept = (
        '<use xlink:href="#fff000"/><g clip-path="url(#abcdef)"/><image href="data:;base64,fff"/>'
    )
    svg = f'<svg width="1pt"><g style="fill: {light}; stroke: {light}"/>{kept}</svg>'
    expected = (
        f'<svg fill="#e0e0e0" width="1pt"><g style="fill: {dark}; stroke: {dark}"/>{kept}</svg>'
    )
    assert pictures.darkened(svg) == expected


@pytest.mark.parametrize(
    ("width", "small"), [("100pt", True), ("290pt", True), ("290.1pt", False), ("100", False)]
)
def test_only_narrow_figures_shrink_on_a_phone(
    pictures: ModuleType, width: str, small: bool
) -> None:
    picture = ElementTree.fromstring(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}"/>')
    assert pictures.is_small(picture) == small


def test_commands_in_prose_are_complete() -> None:
    """Every `$ ttame ...` parses: the command is there, its options are, and none is missing."""
    group, found = typer.main.get_command(app), 0
    assert isinstance(group, typer.core.TyperGroup)
    for name, text in texts().items():
        if not name.endswith((".md", ".py")):
            continue
        for line in re.findall(r"^(?:# )?\$ (?:\.venv/bin/)?ttame (.+)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            command = group.commands[words[0]]
            with suppress(typer.Exit):  # of --help, which is printed
                command.make_context(f"{name}: ttame {words[0]}", words[1:])
            found += 1
    assert found > 10


def test_images_in_prose_have_alternative_text() -> None:
    for name, text in texts().items():
        if name.endswith(".md") or name.startswith("notebooks/"):
            assert re.findall(r"!\[\s*\]\(", text) == [], name
