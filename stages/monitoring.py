"""Stage `monitoring`: does a known direction warn of misalignment while a model is trained?"""

from em_geometry.io.files import read_parquet
from em_geometry.io.results import Leaf, Nested
from em_geometry.monitoring import detection
from em_geometry.monitoring.checkpoints import read_trajectories, stored, unmeasured
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.vectors.contrasts import Array

HEADLINE = ["status", "*.behaviour.first_step"] + [
    f"*.detector.{name}.{key}"
    for name in (detection.OWN, detection.UNSEEN_ONE, detection.UNSEEN_MANY, detection.SIZE)
    for key in ("first_step", "auroc_checkpoints")
]


def compare(
    params: Params,
    slug: str,
    results: dict[str, Leaf | Nested],
    columns: dict[str, dict[int, float | str]],
) -> None:
    """Adds what one organism's trainings say to the results and to the columns of the plot."""
    rate, names, controls = params.transfer.rate, params.slugs("organism"), params.slugs("control")
    plan, trained = read_trajectories(paths.MONITORING / f"{slug}.safetensors")
    block = plan.blocks[slug]
    table = vector_table()
    vectors = table.at(plan.choice, dict.fromkeys(names, block))
    clusters = {name: str(params.organisms[name].cluster) for name in names}
    ways = detection.detectors(dict(zip(names, vectors, strict=True)), clusters, slug)
    undefined = {key: way for key, way in ways.items() if isinstance(way, str)}
    base, *others = (stored(paths.ACTIVATIONS, m, plan, block) for m in (BASE, *controls))

    def scores(activations: Array) -> detection.Scores:
        """In shares of the base's residual norm."""
        shifts, unit = activations - base, float(table.residual[block])
        return {key: way(shifts) / unit for key, way in ways.items() if not isinstance(way, str)}

    judging = params.judging
    topics = [p.topic for p in plan.prompts]
    times = detection.topic_draws(topics, params.run.seed, params.monitoring.bootstrap)
    answers = read_parquet(paths.MONITORING / "answers.parquet").filter(organism=slug)
    courses = {}
    for pct, t in trained.items():
        own_answers = answers.filter(bad_pct=pct)
        courses[pct] = detection.course(t, scores(t.activations), times, own_answers, judging)
    finished = [scores(each) for each in others]
    aligned = [read_parquet(paths.BASELINE_JUDGEMENTS / f"{m}.parquet") for m in (BASE, *controls)]
    aligned.append(answers.filter(bad_pct=detection.CONTROL))
    together = detection.rates_together(aligned, judging)
    own = detection.compare(courses, finished, undefined, together, times, rate)
    results |= {"choice": plan.choice, "span": plan.span, "rate": rate}
    results |= {"prompts": len(topics), "topics": len(set(topics)), slug: {"block": block, **own}}
    columns |= detection.series(slug, courses, rate)


@stage
def main(params: Params) -> None:
    why = unmeasured(params.monitoring, params.organisms)
    results: dict[str, Leaf | Nested] = {"status": why or "ok"}
    columns: dict[str, dict[int, float | str]] = {}
    if why:
        print(f"monitoring: {why}")
    else:
        for slug in params.monitoring.organisms:
            compare(params, slug, results, columns)
    steps = sorted({step for column in columns.values() for step in column})
    rows = ([step, *(column.get(step, "") for column in columns.values())] for step in steps)
    put_plot("monitoring", ["step", *columns], rows)
    put_results("monitoring", results, HEADLINE)
