"""Stage `geometry_predicts_transfer`: what is known of the vectors against what they do."""

from __future__ import annotations

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results, write_results
from em_geometry.project import paths
from em_geometry.project.command import PARAMS, ParamsFile, run
from em_geometry.settings import Params, load_params
from em_geometry.steering.selected import read_selected
from em_geometry.transfer.conditions import Table, read_answers
from em_geometry.transfer.prediction import PRIMARY, outcomes, pair_rows, prediction, predictors


def main(params: Params) -> None:
    """Correlates every predictor with every outcome."""
    slugs, judging, chosen = params.slugs("organism"), params.judging, params.transfer
    vectors, similarity = (
        read_selected(paths.SELECTED),
        read_results(paths.table("base_similarity")),
    )
    pairs = read_results(paths.table("downstream_convergence")).group("pair")
    x = predictors(
        {slug: vectors[slug] for slug in slugs},
        {slug: similarity.number(f"model.{slug}.contrast_cosine") for slug in slugs},
        {
            key.removesuffix(".end"): e.value
            for key, e in pairs.items()
            if key.endswith(".end") and e.value is not None
        },
    )
    answers = read_answers(paths.JUDGEMENTS, params.steered(), judging.aspects)
    means, rates = (
        Table.of(answers, judging, params.run.seed, chosen.bootstrap, rate)
        for rate in ("mean_aligned", chosen.rate)
    )
    y = outcomes(slugs, means, rates)
    write_results(
        paths.table("prediction"),
        paths.metrics("prediction"),
        prediction(x, y, params.run.seed, chosen.level),
        [f"predicts.{name}.{PRIMARY}{part}" for name in x for part in ("", ".p", ".verdict")],
    )
    write_text(paths.plot("prediction.csv"), pair_rows(slugs, x, y).write_csv(float_precision=4))


def cli(params: ParamsFile = PARAMS) -> None:
    """Rank correlations of cosine, similarity to base, norm and convergence with transfer."""
    main(load_params(params))


if __name__ == "__main__":
    run(cli)
