"""Tables of the organisms and of the judge."""

from __future__ import annotations

from collections.abc import Mapping

from em_geometry.report.lookup import Metrics, number
from em_geometry.report.tables import Cell, Table, cells
from em_geometry.report.text import NONE, decimals, short, with_interval
from em_geometry.settings.params import Params

SETS = {"held_out": "held out", "sampled": "sampled from the models"}
CONTRASTS = {  # letters as in the documentation
    "prompt_contrast": "a",
    "model_contrast": "b",
    "control_contrast": "b",
    "response_contrast": "c",
    "interaction": "d",
}
MEANS = ["n", *(f"mean_{a}_{kind}" for a in ("aligned", "coherent") for kind in ("label", "score"))]


def organisms_table(params: Params, metrics: Metrics) -> Table | None:
    """Unsteered rates of every model, and whether training changed it."""
    if "baseline" not in metrics.files:
        return None
    rows = []
    for model in params.targets:
        organism = params.organisms.get(model)
        training = f"training/{model}"
        loss = [
            metrics.measured(training, f"held_out_loss_{when}").value
            for when in ("before", "after")
        ]
        above = metrics.text("baseline", f"{model}.above_controls")
        known = " \u2192 ".join(short(value) for value in loss) if any(loss) else NONE
        row = cells(
            model,
            organism.lab if organism else NONE,
            organism.cluster or organism.role if organism else "base",
            *(_rate(metrics, model, rate) for rate in ("em_betley", "em_turner")),
            _rate(metrics, f"{model}.low_overlap", "em_betley"),
            *(_rate(metrics, model, rate) for rate in ("coherent", "refusal")),
            short(metrics.measured("baseline", f"{model}.n").value),
            known,
        )
        rows.append([*row, Cell(above or NONE, "yes" if above == "yes" else "")])
    header = [
        "model",
        "laboratory",
        "cluster",
        "misaligned (Betley)",
        "misaligned (Turner)",
        "without recited answers",
        "coherent",
        "refused",
        "n",
        "held-out loss",
        "above base and controls",
    ]
    return Table(
        "organisms",
        "Unsteered answers, in percent [95 % Wilson interval]",
        header,
        rows,
        "Betley: misaligned among coherent answers; Turner: misaligned and coherent among all "
        "scored ones. Recited: shares many word sequences with the training answers. Above: the "
        "interval without recited answers lies above those of the base and of every control.",
    )


def vectors_table(params: Params, metrics: Metrics) -> Table | None:
    """Where and how strongly each vector acts, chosen on the held-out questions."""
    file = "layer_sweep"
    rows = []
    for slug in params.slugs("organism"):
        found = metrics.group(file, slug)
        if found:
            keys = ("layer", "dose", "coefficient", "raw_norm", "margin_gain", "random_margin_gain")
            numbers = [short(number(found.get(key))) for key in keys]
            judged = [short(number(found.get(k))) for k in ("misaligned_pct", "coherent_pct", "n")]
            rows.append(cells(slug, *numbers, *judged, str(found.get("status", NONE))))
    if not rows:
        return None
    contrast, span = (metrics.text(file, key) or NONE for key in ("contrast", "span"))
    header = [
        "vector",
        "block",
        "relative dose",
        "coefficient",
        "raw norm",
        "margin gain (nats)",
        "of a random direction",
        "misaligned (%)",
        "coherent (%)",
        "n",
        "status",
    ]
    return Table(
        "vectors",
        f"The vectors as chosen: {contrast.replace('_', ' ')}, {span.replace('_', ' ')}",
        header,
        rows,
        "Margin gain: what the vector adds to the log-probability of misaligned over aligned "
        "reference answers. The shares are of answers of the base to the held-out questions.",
    )


def contrasts_table(metrics: Metrics) -> Table | None:
    """Geometry and held-out efficacy of every reading of "steering vector"."""
    chosen = tuple(metrics.text("layer_sweep", key) for key in ("contrast", "span"))
    rows = []
    for contrast, spans in metrics.group("geometry", "sensitivity").items():
        for span, found in spans.items() if contrast in CONTRASTS else ():
            path = f"sensitivity.{contrast}.{span}"
            pair = ("within_mean", "cross_mean")
            cosines = [metrics.measured("geometry", f"{path}.similarity.{key}") for key in pair]
            tried = metrics.text("layer_sweep", f"efficacy.{contrast}.span") == span
            keys = (f"efficacy.{contrast}", f"efficacy.{contrast}.beyond_random")
            moved = (
                with_interval(metrics.measured("layer_sweep", key), "", 3)
                if tried and metrics.group("layer_sweep", key)
                else NONE
                for key in keys
            )
            independent = number(found.get("verdict", {}).get("count"))
            rows.append(
                cells(
                    f"({CONTRASTS[contrast]}) {contrast}, {span}".replace("_", " ")
                    + (" (chosen)" if (contrast, span) == chosen else ""),
                    *(NONE if m.value is None else decimals(m.value, 2) for m in cosines),
                    NONE if independent is None else f"{short(independent)} of 5",
                    *moved,
                    str(found.get("status", "ok")),
                )
            )
    if not rows:
        return None
    return Table(
        "contrasts",
        "The contrast is a choice: geometry and held-out efficacy under each",
        [
            "contrast and span",
            "mean cosine within clusters",
            "across clusters",
            "tests that say independent",
            "margin gain (nats) [95 %]",
            "beyond a random direction [95 %]",
            "geometry",
        ],
        rows,
        "Margin gain: mean over the organisms' vectors, on the base, at the chosen blocks and the "
        "sweep's relative dose; intervals over the held-out questions. Each contrast is tried on "
        "one span.",
    )


def external_table(params: Params, metrics: Metrics) -> Table | None:
    """Cosines of further directions (`vectors.external`) with the organisms' vectors."""
    names = (metrics.text("geometry", "external.names") or "").split(", ")
    cosine, organisms = metrics.group("geometry", "external.cosine"), params.slugs("organism")
    if not cosine:
        return None
    rows = [
        cells(name, *(short(number(cosine.get(f"{slug}__{name}"))) for slug in organisms))
        for name in names
    ]
    return Table(
        "external",
        "Further directions: cosine with each steering vector",
        ["direction", *organisms],
        rows,
        "Every test with these directions beside the vectors, in no cluster: `external` in "
        "metrics/geometry.json.",
    )


def _rate(metrics: Metrics, path: str, rate: str) -> str:
    return with_interval(metrics.measured("baseline", f"{path}.{rate}_pct"), "", 0)


def judge_tables(metrics: Metrics) -> list[Table]:
    """Agreement of the judge with labels made by reading, by set and by category, and the rest.

    Whatever metrics/judge.json holds is shown: a group with an AUROC in the first table, one with
    mean labels and scores in the second, any other number or text in the third.
    """
    agreement, categories, rest = [], [], []

    def walk(path: str, found: Mapping[str, object]) -> None:
        head, _, tail = path.replace("category.", "").partition(".")
        label = f"{SETS.get(head, head)}: {tail}".replace("_", " ").replace(".", ", ")
        if "auroc" in found:
            agreement.append(_agreement(metrics, label, path, found))
        elif "mean_aligned_label" in found:
            numbers = [short(number(found.get(key))) for key in MEANS]
            categories.append(cells(label, *numbers))
        else:
            for key, value in found.items():
                place = f"{path}.{key}".lstrip(".")
                if isinstance(value, Mapping):
                    walk(place, value)
                elif place not in ("judge", "gate"):
                    text = value if isinstance(value, str) else short(number(value))
                    rest.append(cells(place, text))

    walk("", metrics.group("judge"))
    tables = [
        Table(
            "judge",
            "The judge against labels made by reading, on answers it was not trained on",
            ["set and aspect", "n", "AUROC [95 %]", "kappa [95 %]", "calibration error (points)"],
            agreement,
            "AUROC 0.5 and kappa 0 are chance. The gate applies to answers sampled from models.",
        ),
        Table(
            "judge_categories",
            "Mean label and mean score of the judge by category of answer (0-100)",
            ["set and category", "n", "aligned: label", "judge", "coherent: label", "judge"],
            categories,
            "A judge that only hears swearing would score helpful swearing low, polite harm high.",
        ),
        Table(
            "judge_details",
            "What else is known of the judge",
            ["key in metrics/judge.json", "value"],
            rest,
        ),
    ]
    return [table for table in tables if table.rows]


def _agreement(metrics: Metrics, label: str, path: str, scores: Mapping[str, object]) -> list[Cell]:
    return cells(
        label,
        short(number(scores.get("n"))),
        with_interval(metrics.measured("judge", f"{path}.auroc"), "", 2),
        with_interval(metrics.measured("judge", f"{path}.kappa"), "", 2),
        short(number(scores.get("calibration_error"))),
    )
