"""Stage `checkpoints`: organisms trained again on mixtures of bad and benign data, and measured.

Writes data/monitoring/: `<organism>.safetensors` (activations [checkpoints, prompts, width] by
percent of bad data) and `answers.parquet` (every judged answer).
"""

from __future__ import annotations

from em_geometry.activations.prompts import read_prompts
from em_geometry.activations.questions import read_questions
from em_geometry.io.files import write_parquet
from em_geometry.judging.score import judged, refuse_failed
from em_geometry.models.load import Loaded
from em_geometry.monitoring.checkpoints import (
    CODE,
    Answers,
    Plan,
    all_answers,
    chosen_prompts,
    trajectories,
    unmeasured,
    write_trajectories,
)
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import judge, known_texts, models
from em_geometry.settings import Params, load_params
from em_geometry.steering.conditions import Condition
from em_geometry.steering.respond import CODE as RESPOND_CODE
from em_geometry.steering.respond import respond
from em_geometry.steering.selected import read_selected
from em_geometry.vectors.contrasts import prompt_span

KEPT = ("question_id", "variant", "question", "sample", "text", "tokens", "finish")


def main(params: Params) -> None:
    """Trains and measures what is not in the journal, and judges the answers."""
    settings = params.monitoring
    paths.MONITORING.mkdir(parents=True, exist_ok=True)
    if unmeasured(settings, params.organisms):
        return
    selected = read_selected(paths.SELECTED, params.slugs("organism"))
    first = next(iter(selected.values()))
    plan = Plan(
        {slug: selected[slug].layer for slug in settings.organisms},
        f"{first.contrast}.{first.span}",
        prompt_span(first.span, params.activations.spans),
        chosen_prompts(read_prompts(params.prompts), settings.prompts),
        params.activations.batch_size,
    )
    questions = read_questions(params.questions, "evaluation", params.base.system_prompt)
    base = models(params)

    def answer(loaded: Loaded) -> Answers:
        conditions = [Condition(samples=settings.samples)]
        how = params.sampling, "monitoring answers", params.steering.positions
        return respond(base, loaded, conditions, {}, questions, *how).select(KEPT).to_dicts()

    asked = {
        "code": [CODE, RESPOND_CODE],
        "questions": [[q.id, q.variant, q.prompt, q.system] for q in questions],
        "sampling": params.sampling.model_dump(),
    }
    found = trajectories(base, params.recipes, settings, plan, answer, asked)
    for slug in settings.organisms:
        own = {pct: t for (name, pct), t in found.items() if name == slug}
        write_trajectories(paths.MONITORING / f"{slug}.safetensors", plan, slug, own)
    with judge(params) as active:
        frame = judged(active, all_answers(found), known_texts(params), "judge monitoring")
    refuse_failed([frame], params.judging.allow_errors)
    write_parquet(paths.MONITORING / "answers.parquet", frame, {"judge": active.id})


def cli(params: ParamsFile = PARAMS) -> None:
    """Train organisms again on mixtures, and keep activations and answers of checkpoints."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
