"""Compares judges on the answers that decide whether a judge may be believed.

    python -m benchmarks.judges words embedded
    python -m benchmarks.judges zero_shot --model Qwen=FOLDER --answers 150

Every judge scores the labelled held-out answers (`judging.probe.sampled` of params.yaml), or a
random part of them, and is measured as the stage `judge` measures it. Its row goes into
benchmarks/judges.json and into the table of docs/judges.md; other rows stay. The stage `base_model`
has to have run; what learns does so here, from the labelled training answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.rivals import JUDGES, SHORT, WITH_MODEL, Bench, Scores, bench_of
from em_geometry.judging.rates import ASPECTS, positive
from em_geometry.judging.validation import Texts, Validation
from em_geometry.project import paths
from em_geometry.project.command import command
from em_geometry.settings import Judging, load_params
from em_geometry.stats.agreement import event_agreement
from em_geometry.stats.estimate import Estimate

RESULTS, PAGE = Path("benchmarks/judges.json"), Path("docs/judges.md")
START, END = "<!-- rows of benchmarks/judges.json -->\n", "<!-- end of rows -->"
RUN = 2900  # answers that the default profile judges
CORES = 2
GATE = (
    "event_kappa", "event_recall", "event_precision", "pooled_auroc", "within_organisms_auroc",
)  # fmt: skip
COLUMNS = {
    "event_kappa": "kappa of the event",
    "event_recall": "recall",
    "event_precision": "precision",
    "pooled_auroc": "AUROC of aligned",
    "within_organisms_auroc": "within organisms",
    "aligned_kappa": "kappa of aligned",
    "aligned_kappa_at_the_readers_rate": "at the readers' rate",
    "coherent_auroc": "AUROC of coherent",
}


class Given(Validation):
    """The library's validation, of scores that are there already."""

    def __init__(self, scores: Scores, judging: Judging) -> None:
        self.judging, self._given = judging, scores

    def scores(self, texts: Texts) -> Scores:
        """The scores, whatever is asked."""
        return self._given


def row(bench: Bench, scores: Scores) -> dict[str, Any]:
    """A judge's row: agreement with the labels, with intervals over questions, and its cost."""
    judging, asked = bench.params.judging, bench.asked
    given = Given(scores, judging)
    gate = given.gate(asked, bench.params.slugs("organism"))
    aligned, coherent = (given.agreement(asked, scores[aspect], aspect) for aspect in ASPECTS)
    truth = positive(asked["aligned"].to_numpy(), "aligned", judging)
    # Would it agree if its cut were put where it flags as many answers as the readers?
    flagged = scores["aligned"].argsort(kind="stable").argsort() < truth.sum()
    matched = event_agreement(truth, flagged, asked["question_id"].to_numpy())["kappa"]
    found = {name: gate[name] for name in GATE} | {
        "aligned_kappa": aligned["kappa"],
        "aligned_kappa_at_the_readers_rate": matched,
        "coherent_auroc": coherent["auroc"],
    }
    measured = {name: _rounded(estimate) for name, estimate in found.items()}
    seconds = round(bench.seconds / len(asked), 6) if bench.seconds else None  # none: a reader
    return {"n": len(asked), **measured, "core_seconds": seconds}


def _rounded(found: Estimate) -> dict[str, Any]:
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return {k: None if v is None else round(v, 3) for k, v in numbers.items()}


def table(rows: dict[str, Any]) -> str:
    """The rows as a table of markdown, best event kappa first."""
    names = ["judge", *COLUMNS.values(), "n", "core-seconds an answer", f"minutes for {RUN:,}"]
    lines = [names, ["---"] * len(names)]
    for name, each in sorted(
        rows.items(), key=lambda pair: -(pair[1]["event_kappa"]["value"] or 0)
    ):
        cost = each["core_seconds"]
        seconds = ["", ""] if cost is None else [f"{cost:.4f}", f"{cost * RUN / CORES / 60:.1f}"]
        cells = [_cell(each[column]) for column in COLUMNS]
        lines.append([name, *cells, str(each["n"]), *seconds])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(found: dict[str, Any]) -> str:
    """A number and its interval, without the zero before the point."""
    value, *ends = (
        "-" if found[key] is None else f"{round(found[key], 2) + 0.0:.2f}".replace("0.", ".")
        for key in ("value", "low", "high")
    )
    return value if "-" in ends else f"{value} [{', '.join(ends)}]"


def with_table(text: str, rows: dict[str, Any]) -> str:
    """The page's text with these rows between its two marks."""
    before, after = text.partition(START)[0], text.partition(END)[2]
    return f"{before}{START}{table(rows)}{END}{after}"


@command
def main() -> None:
    """Scores with the judges that are named and writes their rows; other rows stay."""
    about = "\n".join(f"  {name:16} {judge.__doc__}" for name, judge in JUDGES.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks.judges",
        description=f"{__doc__}\njudges:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("judges", nargs="+", choices=JUDGES, metavar="JUDGE")
    parser.add_argument("--model", metavar="NAME=FOLDER", help="a further model's checkpoint")
    parser.add_argument("--answers", type=int, help="a random part of the held-out answers")
    parser.add_argument("--templates", default=SHORT, help="folder of prompts (%(default)s)")
    parser.add_argument("--aligned-only", action="store_true", help="coherence by the probe")
    given = parser.parse_args()
    name, _, folder = (given.model or "").partition("=")
    if given.model and not folder:
        parser.error("--model takes NAME=FOLDER")
    params = load_params(paths.PARAMS)
    more = {"templates": given.templates, "aligned_only": given.aligned_only}
    bench = bench_of(params, given.answers, folder=Path(folder) if folder else None, **more)
    for judge in given.judges:
        bench.seconds = 0.0
        of = name if judge in WITH_MODEL else params.judging.model if judge == "named" else ""
        key = f"{judge} {of or ''}".strip()
        found = {key: row(bench, JUDGES[judge](bench))}
        print(json.dumps(found, indent=1), flush=True)
        rows = json.loads(RESULTS.read_text()) | found if RESULTS.is_file() else found
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
