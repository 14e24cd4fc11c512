"""The ledgers of papers' claims (data/papers/<slug>.yaml): one schema, read and checked."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, Field, model_validator

from em_geometry.claims.derived import DERIVED
from em_geometry.claims.printed_gram import STRICT
from em_geometry.errors import UserError
from em_geometry.io.files import read_yaml

Metric = Annotated[str, Field(pattern=r"^[a-z_]+:[a-z0-9_]+(\.[a-z0-9_]+)+$")]
Interval = tuple[float, float]
Formula = Literal[  # the definitions that claims are recomputed by
    "similarity", "triangle", "pca", "subspace", "projection", "residual", "clusters",
    "cluster_angle", "orthogonality", "pc1_ablation", "cross_variance", "verdict", "capture",
    "em_betley", "transfer", "asymmetry", "models", "citation", "E1", "similarity to base",
    "em_turner", "coherent", "ablation", "steering", "weights", "monitoring", "training",
]  # fmt: skip
Evidence = Literal["printed number", "figure", "words"]
Seen = Literal["read", "second hand"]  # the paper's full text, or what others say of it
Verdict = Literal["reproduced", "inconsistent", "underdetermined", "needs models"]

MARGINS = {  # equivalence margins by unit (ours); of a ratio, a share of the printed number
    "cosine": 0.05, "projection": 0.05, "loading": 0.05, "1-cos": 0.05, "r": 0.05, "share": 0.05,
    "deg": 5.0, "percent": 5.0, "ratio": 0.1, "layer": 1.0, "clusters": 0.0,
}  # fmt: skip
HINT = "docs/method.md (claims ledger) says what each key means"
EPSILON = 1e-9  # of comparisons at the edge of a rounding interval
INFINITY = float("inf")
T = TypeVar("T")


def _listed(found: T | list[T] | None) -> list[T]:
    """One thing, several, or none as a list."""
    return found if isinstance(found, list) else [] if found is None else [found]


class Recomputation(BaseModel):
    """How a claim follows from the paper's other numbers; see the head of the ledger."""

    model_config = STRICT

    subgram: Annotated[list[str], Field(min_length=3)] | None = None
    fitted: bool = False
    arithmetic: bool = False
    keys: list[str] | None = None
    derived: str | None = None
    of: Annotated[int, Field(ge=1)] | None = None  # a printed percentage is of so many
    count: Annotated[int, Field(ge=0)] | None = None  # and of them so many, where that is printed

    @model_validator(mode="after")
    def _one_basis(self) -> Self:
        if sum([self.subgram is not None, self.fitted, self.arithmetic]) != 1:
            raise ValueError("published needs exactly one of subgram, fitted, arithmetic")
        if self.count is not None and self.of is None:
            raise ValueError("`count` needs `of`")
        if self.of is not None and not self.arithmetic:
            raise ValueError("`of` is arithmetic")
        if self.derived is not None and self.derived not in DERIVED:
            raise ValueError(f"{self.derived!r} is none of {', '.join(DERIVED)}")
        return self

    @property
    def basis(self) -> str:
        """In words, for tables."""
        if self.subgram is not None:
            return "printed cosines"
        return "fitted cosines" if self.fitted else "arithmetic"


class Claim(BaseModel):
    """One claim; the head of data/papers/geometric_structure.yaml says what the fields mean."""

    model_config = STRICT

    id: Annotated[str, Field(pattern=r"^[A-Z]\d+$")]
    source: Literal["printed", "ours"] = "printed"
    section: str
    quantity: str
    value: float | list[float] | None
    reads: Literal["equal", "between", "below", "above", "words"] = "equal"
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    margin: Annotated[float, Field(ge=0)] | None = None  # set on reading
    unit: str
    formula: Formula
    model: str = ""  # on reading: the paper's first, where none is named
    seen: Seen = "read"  # on reading: the paper's, where none is named
    evidence: Evidence | None = None  # on reading: by section and value, where none is named
    about: str | None = None  # the quantity in words; other papers' claims about it say the same
    needs: Literal["gram", "vectors", "behaviour", "weights", "training", "metadata"]
    metric: Metric | list[Metric] | None
    compute: Literal["opposite", "between", "above"] | None = None
    judged: Metric | list[Metric] | None = None
    reason: str | None = None
    published: Recomputation | None = None
    rounding_interval: Interval | list[Interval] | None = None
    verdict: Verdict
    note: str = ""
    hypotheses: list[str] = []

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.metric is None) != (self.reason is not None):
            raise ValueError("a claim has a metric, or a reason why it has none")
        if (self.value is None) != (self.reads == "words"):
            raise ValueError("a claim has a value, or reads: words")
        if self.metrics and (self.compute is None) == (self.reads == "words"):
            raise ValueError("words are measured by what `compute` names, numbers are not")
        if self.reads == "between" and len(self.numbers) != 2:
            raise ValueError("reads: between needs [low, high]")
        if self.reads == "equal" and self.metrics and len(self.metrics) != len(self.numbers):
            raise ValueError("as many metrics as numbers are needed")
        return self

    @property
    def would_need(self) -> str:
        """What a measurement of just this claim would need."""
        needed = f"{self.needs} of {self.model}"
        return f"{needed} ({self.reason})" if self.reason else needed

    @property
    def numbers(self) -> list[float]:
        """The printed numbers."""
        return _listed(self.value)

    @property
    def printed(self) -> list[float | None]:
        """The printed number of each metric; a range stands as its middle."""
        if self.reads == "equal" or not self.numbers:
            return [*self.numbers] if self.metrics else []
        return [sum(self.numbers) / len(self.numbers)] * len(self.metrics)

    @property
    def metrics(self) -> list[str]:
        """Metrics of our own run, one or one for each number."""
        return _listed(self.metric)

    @property
    def judged_metrics(self) -> list[str]:
        """The same by judged answers, where `metrics` are of margins."""
        return _listed(self.judged)

    @property
    def text(self) -> str:
        """What the paper prints."""
        numbers = [f"{n:g}" for n in self.numbers]
        if self.reads == "between":
            return " to ".join(numbers)
        prefix = f"{self.reads} " if self.reads in ("below", "above") else ""
        return prefix + ("; ".join(numbers) or "in words")

    def intervals(self) -> list[Interval]:
        """Independently computed rounding intervals, one for each number; empty if none."""
        return _listed(self.rounding_interval)

    def allowed(self, part: int) -> Interval:
        """Where this run's number must lie to reproduce one part of the claim.

        A printed number or range reaches as far as its equivalence margin, at least as far as its
        rounding; a bound has an infinite end; words hold where they are 1.
        """
        if self.reads == "words":
            return 1.0, 1.0
        stated = [self.numbers[part]] if self.reads == "equal" else self.numbers
        if self.reads == "below":
            return -INFINITY, stated[-1] + self.tolerance
        if self.reads == "above":
            return stated[0] - self.tolerance, INFINITY
        reach = max(self.tolerance, self.margin or 0.0) + EPSILON
        return stated[0] - reach, stated[-1] + reach

    def agrees(self, part: int, low: float, high: float) -> bool:
        """Whether a quantity known to lie in [low, high] is what the claim says.

        Equal: the interval meets that of the printed number. A range holds the whole interval;
        a bound holds for all of it. Words: the quantity is 1 where they hold.
        """
        slack = self.tolerance
        if self.reads == "words":
            return low == high == 1.0
        if self.reads == "between":
            return self.numbers[0] - slack <= low and high <= self.numbers[1] + slack
        value = self.numbers[min(part, len(self.numbers) - 1)]
        if self.reads == "below":
            return high <= value + slack
        if self.reads == "above":
            return low > value - slack
        return low <= value + slack + EPSILON and value - slack - EPSILON <= high


class Paper(BaseModel):
    """A whole file: the paper, and its claims."""

    model_config = STRICT

    title: str
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{5}$")] | None
    year: Annotated[int, Field(ge=2017)]
    models: Annotated[list[str], Field(min_length=1)]  # that it measures; the first by default
    seen: Seen
    claims: Annotated[list[Claim], Field(min_length=1)]

    def whole(self, claim: Claim) -> Claim:
        """The claim with what it leaves to the paper, to its unit and to its section."""
        named, margin = claim.model_fields_set, claim.margin
        if margin is None and claim.reads in ("equal", "between"):
            margin = MARGINS.get(claim.unit)
            if margin is not None and claim.unit == "ratio":
                margin *= max(map(abs, claim.numbers))
        shown: Evidence = "figure" if claim.section.startswith("figure") else "printed number"
        if claim.reads == "words" or claim.source == "ours":
            shown = "words"
        return claim.model_copy(
            update={
                "margin": margin,
                "model": claim.model or self.models[0],
                "seen": claim.seen if "seen" in named else self.seen,
                "evidence": claim.evidence or shown,
            }
        )


def read_paper(path: Path) -> Paper:
    """Reads a paper's ledger; UserError names file, claim and key at fault."""
    claims: dict[str, Claim] = {}
    paper = read_yaml(path, Paper, HINT)
    for claim in map(paper.whole, paper.claims):
        if claim.id in claims:
            what = "a claim's id occurs twice"
            raise UserError(what, where=path, found=claim.id, expected="ids of their own")
        if claim.margin is None and claim.metrics and claim.reads in ("equal", "between"):
            what, expected = "a unit without a margin", ", ".join(MARGINS)
            where = f"{path}: {claim.id}"
            raise UserError(what, where=where, found=claim.unit, expected=expected, hint=HINT)
        claims[claim.id] = claim
    return paper.model_copy(update={"claims": [*claims.values()]})


def read_claims(path: Path) -> list[Claim]:
    """The claims of one paper."""
    return read_paper(path).claims


def read_papers(folder: Path, first: str) -> dict[str, Paper]:
    """All papers by slug, the first one first.

    Raises:
        UserError: as `read_paper`; or a paper beside the first asks for the first one's cosines.
    """
    slugs = sorted(path.stem for path in folder.glob("*.yaml"))
    papers = {slug: read_paper(folder / f"{slug}.yaml") for slug in dict.fromkeys([first, *slugs])}
    for slug, paper in papers.items():
        for claim in paper.claims if slug != first else ():
            if claim.published is not None and claim.published.of is None:
                raise UserError(
                    "a claim is to follow from cosines that its paper does not have here",
                    where=f"{folder / slug}.yaml: {claim.id}.published",
                    expected="of, and count where it is printed; or a reading in `verdict`",
                    hint=HINT,
                )
    return papers
