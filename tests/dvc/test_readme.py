"""The README's commands, run as written in a fresh copy; the heavy ones have cheap equivalents."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from em_geometry.settings import Params, load_params
from tests.dvc.conftest import Place

ROOT = Path(__file__).parents[2]
HOW_TO = ("docs/api-judges.md", "docs/dvc.md", "docs/vectors.md")
PAGES = ("README.md", *HOW_TO)
# What takes minutes, a key or a network, and what is run in its place. The graph itself runs in
# tests/e2e on the reduced profile, an S3 store in tests/dvc/test_sharing.py.
INSTEAD = {
    "make repro": "make -n repro && dvc repro --dry --single-item paper_reference",
    "make test": "make -n test",
    "make serve": "make -n serve",
    "source .venv/bin/activate": "test -x .venv/bin/em-geometry",
    # Needs the vectors of a run; tests/steering does what it does.
    (steer := 'make steer MODEL=finance VECTOR=profanity DOSE=0.3 PROMPT="I am bored."'): (
        steer.replace("make", "make -n", 1)
    ),
    "pip install -e '.[s3]'": "pip --version",
    "dvc exp run -S transfer.rate=em_betley --name other-rate": "dvc exp run --help",
    "dvc exp run -S geometry.replicates=300 --name fewer-replicates --queue": "dvc exp run -h",
    "dvc queue start": "dvc queue status",
    "dvc repro --pull --allow-missing": "dvc repro --help",
}


def commands(page: str) -> list[str]:
    """Lines of the page's bash blocks, without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A copy of the tracked files, committed, with the environment of this test run."""
    root = tmp_path_factory.mktemp("fresh")
    place = Place(root / "work", root / "home")
    place.home.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, text=True, capture_output=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place.folder / name)
    place.git("init", "-q", "-b", "main")
    place.git("add", "-A")
    place.git("commit", "-qm", "copy")
    scripts = place.folder / ".venv/bin"  # what `make setup` would install
    scripts.mkdir(parents=True)
    (place.folder / ".venv/.ready").touch()
    (scripts / "em-geometry").write_text('#!/bin/sh\nexec python -m em_geometry.cli "$@"\n')
    (scripts / "em-geometry").chmod(0o755)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run_as_written(fresh: Place, page: str) -> None:
    found = commands(page)
    assert len(found) > 1
    script = "\n".join(["export PATH=$PWD/.venv/bin:$PATH", *(INSTEAD.get(c, c) for c in found)])
    done = fresh.run("bash", "-euo", "pipefail", "-xc", script, ok=False)
    assert done.returncode == 0, done.stdout[-4000:]
    fresh.git("checkout", "--", ".dvc/config")
    assert fresh.git("status", "--porcelain", "--untracked-files=no") == ""


def test_nothing_is_replaced_that_no_page_names() -> None:
    assert set(INSTEAD) <= {line for page in PAGES for line in commands(page)}


def test_the_lines_for_a_judge_behind_an_api_fit_the_active_profile() -> None:
    page = (ROOT / "docs/api-judges.md").read_text(encoding="utf-8")
    lines = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)[0])
    profile = load_params(ROOT / "params.yaml").model_dump()
    judging = Params.model_validate(
        profile | {"judging": profile["judging"] | lines["judging"]}
    ).judging
    assert (judging.backend, judging.usd_per_million_input) == ("openai", 0.4)
    assert len(judging.aspects) > 2  # the rest stays


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in (*PAGES, "CONTRIBUTING.md"):
        named = re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"))
        assert named and set(named) <= targets, page


def test_the_picture_of_the_graph_has_every_stage_and_no_other() -> None:
    text = (ROOT / "docs/dvc.md").read_text(encoding="utf-8")
    drawn = re.search(r"```mermaid\nflowchart LR\n(.*?)```", text, flags=re.DOTALL)
    assert drawn
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(re.findall(r"\w+", drawn[1])) == set(stages)


def test_links_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_preprint_is_named_and_linked_where_it_is_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"][0]
    for page in ("README.md", "docs/method.md"):
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        assert f"[{cited['title']}]({cited['url']})" in text


def test_docstrings_cite_what_the_method_page_has() -> None:
    page = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    there = set(re.findall(r"^#+ (.+)$|\*\*([\w ]+)\*\*|`(\w+)`", page, flags=re.MULTILINE))
    names = {name.lower() for found in there for name in found if name}
    cited = re.compile(r"docs/method\.md[:,] `?([a-z_]+(?: to base| ledger)?)")
    for path in [p for top in ("em_geometry", "stages") for p in (ROOT / top).rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for name in cited.findall(text):
            assert name in names, f"{path.name}: {name}"
        for file in re.findall(r"\b(?:docs|data|tests)/[\w/-]+\.(?:md|ya?ml|ipynb)\b", text):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"
