"""Stage `layer_sweep`: which block and which coefficient each steering vector gets."""

from functools import partial

from em_geometry.activations.blocks import check_blocks
from em_geometry.io.results import Leaf
from em_geometry.judging.score import judged, refuse_failed
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import judge, known_texts, models, questions, vector_table
from em_geometry.project.outputs import put_plot, put_results
from em_geometry.settings import BASE, Params
from em_geometry.steering.answers import respond
from em_geometry.steering.conditions import write_selected
from em_geometry.vectors import sweep
from em_geometry.vectors.contrasts import ABOUT

HEADLINE = ("layer", "*.dose", "*.mean_aligned", "*.margin_gain", "efficacy.*.beyond_random")


@stage
def main(params: Params) -> None:
    settings, how, positions = params.layer_sweep, params.vectors, params.steering.positions
    organisms, seed = params.slugs("organism"), params.run.seed
    table = vector_table()
    units = sweep.candidates(table, f"{how.contrast}.{how.span}", organisms)
    blocks = len(table.residual)
    check_blocks(settings.layers, blocks, "params.yaml: layer_sweep.layers")
    if isinstance(how.layer, int):
        check_blocks([how.layer], blocks, "params.yaml: vectors.layer")
    known, asked = models(params), questions(params, "held_out")
    loaded = known.load(BASE)
    margin = partial(sweep.margins, loaded, asked, positions)
    gains = sweep.margin_gains(margin, units, table.residual, settings, seed)
    layers = sweep.layers_to_judge(gains, organisms, settings, how.layer)
    plan, vectors = sweep.conditions(units, table.residual, layers, settings)
    how_asked = asked, params.sampling, "layer sweep answers", positions, params.workers
    answers = respond(known, loaded, plan, vectors, *how_asked)
    with judge(params) as active:
        answers = judged(active, answers, known_texts(params), "judge layer sweep")
    refuse_failed([answers], params.judging.allow_errors)
    trials = sweep.trials_of(answers, settings)
    chosen = sweep.choose(trials, layers, how.layer, settings.min_coherent)
    selected = sweep.selected_of(table, units, chosen, how)
    about = {
        "model_sha256": loaded.sha256,
        "layers_convention": ABOUT["layers"],
        "rule": f"layer {how.layer}, held-out questions",
        "units": "unit vectors; coefficient = dose x mean residual norm of the base",
    }
    write_selected(paths.SELECTED, selected, about)
    used, spans = {slug: s.layer for slug, s in selected.items()}, params.activations.spans
    efficacy = sweep.contrast_efficacy(margin, table, used, how, spans, settings.dose, seed)
    results: dict[str, Leaf] = {"contrast": how.contrast, "span": how.span, "rule": str(how.layer)}
    results |= sweep.sweep_results(chosen, selected, trials, gains, settings.layers)
    put_results("layer_sweep", results | efficacy, HEADLINE)
    rows = ([at, *(g[i] for g in gains.values())] for i, at in enumerate(settings.layers))
    put_plot("layer_sweep", ["layer", *gains], rows)
