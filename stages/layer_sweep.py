"""Stage `layer_sweep`: which block and which coefficient each steering vector gets."""

from __future__ import annotations

from em_geometry.activations.blocks import check_blocks
from em_geometry.activations.questions import read_questions
from em_geometry.io.files import write_text
from em_geometry.io.results import Leaf, write_results
from em_geometry.io.tables import csv_text
from em_geometry.judging.score import judged, refuse_failed
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.project.inputs import judge, known_texts, models
from em_geometry.settings import BASE, Params, load_params
from em_geometry.steering.respond import respond
from em_geometry.steering.selected import write_selected
from em_geometry.vectors import sweep
from em_geometry.vectors.table import ABOUT, read_vector_table

HEADLINE = ("layer", "*.dose", "*.mean_aligned", "*.margin_gain", "efficacy.*.beyond_random")


def main(params: Params) -> None:
    """Chooses block and coefficient for every organism's vector."""
    settings, how, positions = params.layer_sweep, params.vectors, params.steering.positions
    organisms, seed = params.slugs("organism"), params.run.seed
    table = read_vector_table(paths.VECTORS, paths.VECTOR_INDEX)
    units = sweep.candidates(table, f"{how.contrast}.{how.span}", organisms)
    blocks = len(table.residual)
    check_blocks(settings.layers, blocks, "params.yaml: layer_sweep.layers")
    if isinstance(how.layer, int):
        check_blocks([how.layer], blocks, "params.yaml: vectors.layer")
    loaded = models(params).load(BASE)
    questions = read_questions(params.questions, "held_out", params.base.system_prompt)
    gains = sweep.margin_gains(loaded, units, table.residual, questions, settings, positions, seed)
    layers = sweep.layers_to_judge(gains, organisms, settings, how.layer)
    plan, vectors = sweep.conditions(units, table.residual, layers, settings)
    answers = respond(
        models(params), loaded, plan, vectors, questions, params.sampling, "layer sweep answers",
        positions, params.workers,
    )  # fmt: skip
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
    efficacy = sweep.contrast_efficacy(
        loaded, table, questions, used, how, spans, settings.dose, positions, seed
    )
    results: dict[str, Leaf] = {
        "contrast": how.contrast,
        "span": how.span,
        "rule": str(how.layer),
    }
    results |= sweep.sweep_results(chosen, selected, trials, gains, settings.layers)
    stage = "layer_sweep"
    write_results(paths.table(stage), paths.metrics(stage), results | efficacy, HEADLINE)
    rows = ([at, *(g[i] for g in gains.values())] for i, at in enumerate(settings.layers))
    write_text(paths.plot("layer_sweep.csv"), csv_text(["layer", *gains], rows))


def cli(params: ParamsFile = PARAMS) -> None:
    """Choose block and coefficient of every steering vector on the held-out questions."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
