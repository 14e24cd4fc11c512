"""Where a project keeps its files, relative to its folder: the only place that knows.

Stages and commands take paths from here and hand them to the library, which knows none.
"""

from pathlib import Path

PARAMS = Path("params.yaml")
PROFILES = Path("profiles")
GRAPH, LOCK = Path("dvc.yaml"), Path("dvc.lock")

DATA, METRICS, PLOTS = Path("data"), Path("metrics"), Path("plots")
TABLES = PLOTS / "tables"  # one long table of results a stage

# Inputs, in git. Prompts, questions and training texts are named in the params.
PAPER = DATA / "paper"
PAPERS, FIRST = DATA / "papers", "geometric_structure"  # ledgers; that of the repeated pre-print
CLAIMS = PAPERS / f"{FIRST}.yaml"
COSINES, FAMILY = PAPER / "cosines.json", PAPER / "family.json"
CUES = DATA / "questions/cues.yaml"  # sentences that recall a training domain
FAMILIES = DATA / "families"  # what is kept of finished runs of several base models, a file each

# Outputs, in DVC's cache.
BASE_MODEL = DATA / "models/base"
GIVEN_MODELS = DATA / "models/given"  # content of `path:` sources, a file each
LINKED = DATA / "linked"  # links to their files, where DVC looks
ADAPTERS = DATA / "adapters"
ACTIVATIONS = DATA / "activations"
JUDGE_MODEL = DATA / "judge_model"
BASELINE_RESPONSES = DATA / "baseline/responses"
BASELINE_JUDGEMENTS = DATA / "baseline/judgements"
RESPONSE_ACTIVATIONS = DATA / "response_activations"
VECTORS = DATA / "vectors/vectors.safetensors"
VECTOR_INDEX = DATA / "vectors/index.parquet"
SELECTED = DATA / "vectors/selected.safetensors"
MARGINS = DATA / "margins.parquet"
RESPONSES = DATA / "responses"
JUDGEMENTS = DATA / "judgements"
MORE = DATA / "more"  # raw outcomes, a folder for each experiment of neighbouring papers
MONITORING = DATA / "monitoring"
REJUDGED = DATA / "rejudged"  # of a command, not of a stage

# The page and its figures, in git.
REPORT = PLOTS / "report.html"
PRINT = PLOTS / "print"  # the figures as SVG and PDF


def metrics(stage: str) -> Path:
    """Headline numbers of a stage ("transfer", "training/finance")."""
    return METRICS / f"{stage}.json"


def family(profile: str) -> Path:
    """What is kept of a finished run of a profile."""
    return FAMILIES / f"{profile}.csv"


def table(stage: str) -> Path:
    """All numbers of a stage."""
    return TABLES / f"{stage}.csv"


def checkpoint(slug: str, step: int) -> Path:
    """Activations of a model as it was after a step of its training."""
    return MONITORING / slug / f"step_{step}.safetensors"


def plot(name: str) -> Path:
    """A plot's table or picture, with its ending."""
    return PLOTS / name
