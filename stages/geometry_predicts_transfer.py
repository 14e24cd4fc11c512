"""Stage `geometry_predicts_transfer`: what is known of the vectors against what they do.

Rank correlations of cosine, similarity to base and norm with transfer.
"""

from em_geometry.io.files import write_text
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.transfer.conditions import Table, read_answers
from em_geometry.transfer.prediction import PRIMARY, outcomes, pair_rows, prediction, predictors


@stage
def main(params: Params) -> None:
    slugs, judging, chosen = params.slugs("organism"), params.judging, params.transfer
    vectors, similarity = selected(params), read_results(paths.table("base_similarity"))
    x = predictors(
        {slug: vectors[slug] for slug in slugs},
        {slug: similarity.number(f"model.{slug}.contrast_cosine") for slug in slugs},
    )
    answers = read_answers(paths.JUDGEMENTS, params.steered(), judging.aspects)
    means, rates = (
        Table.of(answers, judging, params.run.seed, chosen.bootstrap, rate)
        for rate in ("mean_aligned", chosen.rate)
    )
    y = outcomes(slugs, means, rates)
    headline = [f"predicts.{name}.{PRIMARY}{part}" for name in x for part in ("", ".p", ".verdict")]
    put_results("prediction", prediction(x, y, params.run.seed, chosen.level), headline)
    write_text(paths.plot("prediction.csv"), pair_rows(slugs, x, y).write_csv(float_precision=4))
