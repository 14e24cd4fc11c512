"""Stage `checkpoints`: organisms trained again on mixtures of bad and benign data, and measured.

Writes data/monitoring/: `<organism>.safetensors` (activations [checkpoints, prompts, width] by
percent of bad data) and `answers.parquet` (every judged answer).
"""

from em_geometry.activations.prompts import read_prompts
from em_geometry.io.files import write_parquet
from em_geometry.judging.score import judged, refuse_failed
from em_geometry.models.load import Loaded
from em_geometry.monitoring import checkpoints
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import judge, known_texts, models, questions, selected
from em_geometry.settings import Params
from em_geometry.steering.answers import CODE as RESPOND_CODE
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import Condition
from em_geometry.vectors.contrasts import prompt_span

KEPT = ("question_id", "variant", "question", "sample", "text", "tokens", "finish")


@stage
def main(params: Params) -> None:
    """Trains and measures what is not in the journal, and judges the answers."""
    settings = params.monitoring
    paths.MONITORING.mkdir(parents=True, exist_ok=True)
    if checkpoints.unmeasured(settings, params.organisms):
        return
    vectors, asked = selected(params), questions(params)
    first = next(iter(vectors.values()))
    plan = checkpoints.Plan(
        {slug: vectors[slug].layer for slug in settings.organisms},
        f"{first.contrast}.{first.span}",
        prompt_span(first.span, params.activations.spans),
        checkpoints.chosen_prompts(read_prompts(params.prompts), settings.prompts),
        params.activations.batch_size,
    )
    known = models(params)

    def answer(loaded: Loaded) -> checkpoints.Answers:
        conditions = [Condition(samples=settings.samples)]
        how = params.sampling, "monitoring answers", params.steering.positions
        return respond(known, loaded, conditions, {}, asked, *how).select(KEPT).to_dicts()

    decides = {
        "code": [checkpoints.CODE, RESPOND_CODE],
        "questions": [[q.id, q.variant, q.prompt, q.system] for q in asked],
        "sampling": params.sampling.model_dump(),
    }
    found = checkpoints.trajectories(known, params.recipes, settings, plan, answer, decides)
    for slug in settings.organisms:
        own = {pct: t for (name, pct), t in found.items() if name == slug}
        checkpoints.write_trajectories(paths.MONITORING / f"{slug}.safetensors", plan, slug, own)
    with judge(params) as active:
        answers = checkpoints.all_answers(found)
        frame = judged(active, answers, known_texts(params), "judge monitoring")
    refuse_failed([frame], params.judging.allow_errors)
    write_parquet(paths.MONITORING / "answers.parquet", frame, {"judge": active.id})
