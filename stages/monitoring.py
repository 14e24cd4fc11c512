"""Stage `monitoring`: does a known direction warn of misalignment while a model is trained?"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from em_geometry.io.files import read_parquet, read_tensors
from em_geometry.io.results import Leaf, read_results
from em_geometry.monitoring import detection
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import activations, rows, selected, vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.stats.estimate import Floats
from em_geometry.vectors.contrasts import prompt_span

HEADLINE = ("status", "benign", "*.behaviour.first_step", "*.detector.own.first_step",
            "*.detector.unseen_k.first_step")  # fmt: skip


def shifts(params: Params, slug: str, span: str, block: int) -> Floats:
    """Activations of a training [checkpoints and its end, rows, width] minus the base's."""
    files = [paths.checkpoint(slug, step) for step in params.training.checkpoints]
    each = [read_tensors(path)[0][span][:, block] for path in files]
    each.append(activations(slug, span)[:, block])
    return np.stack(each).astype(np.float64) - activations(BASE, span)[:, block]


def margins(params: Params) -> pl.DataFrame:
    """Margins (model, step, pair, margin) at every checkpoint, and at the end, whose step is 0."""
    columns = ["target", "step", "pair", (pl.col("marked") - pl.col("plain")).alias("margin")]
    before = read_parquet(paths.MONITORING / "margins.parquet").select(columns)
    end = read_parquet(paths.MARGINS).filter(way="unsteered", kind="misaligned")
    last = end.with_columns(step=pl.lit(0, before["step"].dtype)).select(columns)
    return pl.concat([before, last.join(before, on="pair", how="semi")])


def of_margins(frame: pl.DataFrame, slug: str, steps: Sequence[int]) -> Floats:
    """Margins of a training [steps, pairs], the pairs in the order of their names."""
    own = frame.filter(target=slug).sort("pair")
    return np.stack([own.filter(step=step)["margin"].to_numpy() for step in steps])


def compare(params: Params, slug: str) -> tuple[dict[str, Leaf], dict[str, dict[int, float]]]:
    """What one organism's training says: its results, and columns of the plot."""
    names, original = params.slugs("organism"), params.repeats().get(slug, slug)
    chosen, table = selected(params)[original], vector_table()
    block, choice = chosen.layer, f"{chosen.contrast}.{chosen.span}"
    span = prompt_span(chosen.span, params.spans())
    vectors = table.at(choice, dict.fromkeys(names, block))
    clusters = {name: str(params.organisms[name].cluster) for name in names}
    ways = detection.detectors(dict(zip(names, vectors, strict=True)), clusters, original)
    every, made_of = detection.benign(params.organisms), detection.made_of(clusters, original)
    moved = {m: shifts(params, m, span, block) for m in (slug, *every)}
    unit, topics = float(table.residual[block]), rows(span)["topic"].to_list()
    last = int(read_results(paths.table(f"training/{slug}")).number("steps"))
    steps = [*params.training.checkpoints, last]
    courses, nulls, undefined = {}, {}, {}
    for key, way in ways.items():
        nulls[key] = detection.apart(params.organisms, chosen.contrast, made_of[key])
        if isinstance(way, str):
            undefined[key] = way
        elif (left := len(nulls[key])) < detection.BENIGN:
            undefined[key] = f"undefined: benign trainings that its vectors do not subtract: {left}"
        else:
            null = np.stack([way(moved[m]) for m in nulls[key]]) / unit
            courses[key] = detection.course(steps, way(moved[slug]) / unit, null, topics)
    frame, at = margins(params), [*params.training.checkpoints, 0]
    own, *rest = (of_margins(frame, m, at) for m in (slug, *every))
    pairs = [str(i) for i in range(own.shape[1])]
    courses[detection.MARGIN] = detection.course(steps, own, np.stack(rest), pairs)
    results: dict[str, Leaf] = {"choice": choice, "span": span, f"{slug}.block": block}
    results |= {"benign": len(every), "rows": len(topics)}
    results |= {f"{slug}.detector.{key}.null": ", ".join(of) or "none" for key, of in nulls.items()}
    results |= detection.results_of(slug, steps, courses, undefined)
    columns = detection.series(steps, courses)
    return results, {f"{slug}_{name}": column for name, column in columns}


@stage
def main(params: Params) -> None:
    why = detection.unmeasured(params.monitoring, params.training, params.organisms)
    results: dict[str, Leaf] = {"status": why or "ok"}
    columns: dict[str, dict[int, float]] = {}
    if why:
        print(f"monitoring: {why}")
    else:
        for slug in params.monitoring.organisms:
            found, plotted = compare(params, slug)
            results, columns = results | found, columns | plotted
    steps = sorted({step for column in columns.values() for step in column})
    table = ([step, *(column.get(step, "") for column in columns.values())] for step in steps)
    put_plot("monitoring", ["step", *columns], table)
    put_results("monitoring", results, HEADLINE)
