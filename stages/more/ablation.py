"""Experiment `ablation`: directions taken out of their own organisms and of each other's.

Writes margins.parquet (a row a pair, model and direction), responses/ and judgements/ (answers
while a direction is taken out of every block, a file an organism).
"""

from pathlib import Path

import polars as pl

from em_geometry.io.files import atomic_path, read_parquet, write_parquet
from em_geometry.judging.rates import RateName
from em_geometry.judging.score import judge_files
from em_geometry.more.ablation.answers import answers, judged_results
from em_geometry.more.ablation.excess_lost import Directions, benign_contrasts, results
from em_geometry.project import paths
from em_geometry.project.inputs import judge, known_texts, models, questions, selected, vector_table
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.steering.margins import measured
from em_geometry.steering.pairs import indices, read_pairs, table
from em_geometry.transfer.outcomes import Margins
from em_geometry.transfer.rate_table import Table, read_answers
from em_geometry.vectors.contrasts import recipe_controls
from em_geometry.vectors.sweep import other_vectors

PAIRS = 24  # reporting pairs that are read: all of them would take a quarter of an hour
RANDOM = 1  # random direction for each organism; benign contrasts are the harder null
ANSWERS = 6  # a question, organism and direction
RATES: tuple[RateName, ...] = ("em_betley", "coherent")  # beside that of the run
HEADLINE = ("excess.all", "one.own.share", "all.*.share", "judged.em_turner.*.fall")


def main(params: Params) -> None:
    known, judging, organisms = models(params), params.judging, params.organisms
    chosen, controls = selected(params), recipe_controls(organisms)
    vectors = vector_table()
    others = other_vectors(vectors, chosen, organisms, params.repeats())
    benign = benign_contrasts(vectors, chosen, organisms)
    out = Directions.of(chosen, others, benign, controls, RANDOM, params.run.seed)
    pairs = read_pairs(Path(params.margins.pairs))
    some = indices(pairs, "misaligned", "reporting", PAIRS)
    asked, own = (questions(params), params.sampling, ANSWERS), [*out.control_of]
    frames, sampled = [read_parquet(paths.MARGINS).filter(way="unsteered")], {}
    for slug in dict.fromkeys([*own, *out.control_of.values()]):
        loaded, trials = known.load(slug), out.trials(slug, some)
        found = measured(known, loaded, pairs, trials, f"ablation {slug}", params.workers)
        frames.append(table(slug, pairs, trials, found))
        if slug in own:
            sampled[slug] = answers(known, loaded, out.sampled(slug), *asked)
    margins, aspects = pl.concat(frames), judging.aspects
    with atomic_path(paths.MORE / "ablation", folder=True) as folder:
        write_parquet(folder / "margins.parquet", margins, {"marked": "nats a token"})
        for slug, frame in sampled.items():
            write_parquet(folder / "responses" / f"{slug}.parquet", frame, {"model": slug})
        with judge(params) as active:
            files = own, folder / "responses", folder / "judgements", known_texts(params)
            judge_files(active, *files, "judge ablated", judging.allow_errors)
        folders = {paths.BASELINE_JUDGEMENTS: own, folder / "judgements": own}
        judged = read_answers(folders, aspects)
    rates = dict.fromkeys([params.transfer.rate, *RATES])
    tables: dict[str, Table] = {r: Table.of(judged, judging, r) for r in rates}
    taken = results(Margins.of(margins), out, params.margins.no_effect)
    said = judged_results(tables, own, params.transfer.no_effect)
    put_results("ablation", {**taken, "judged": said}, HEADLINE)
