"""Stage `geometry_predicts_transfer`: do cosines say which vector acts on which model?"""

import numpy as np

from em_geometry.io.files import read_parquet, write_text
from em_geometry.io.results import read_results
from em_geometry.project import paths
from em_geometry.project.command import stage
from em_geometry.project.inputs import selected
from em_geometry.project.outputs import put_results
from em_geometry.settings import Params
from em_geometry.transfer.outcomes import Margins
from em_geometry.transfer.prediction import dyads, gains, net_transfer, pair_rows, verdict

HEADLINE = ("cosine.slope", "cosine.slope.p", "cosine.reliability", "*.verdict")


@stage
def main(params: Params) -> None:
    slugs, seed, level = params.slugs("organism"), params.run.seed, params.transfer.level
    vectors, similarity = selected(params), read_results(paths.table("base_similarity"))
    unit = np.stack([vectors[slug].vector for slug in slugs]).astype(np.float64)
    like = [similarity.number(f"model.{slug}.contrast_cosine") for slug in slugs]
    outcome, cosines = gains(Margins.of(read_parquet(paths.MARGINS)), slugs), unit @ unit.T
    found = {
        "cosine": dyads(outcome, cosines, seed),
        "base_similarity": net_transfer(outcome, np.array(like), seed),
    }
    share = level / len(found)  # of one of them, so that `level` is that of all together
    verdicts = {name: each | {"verdict": verdict(each, share)} for name, each in found.items()}
    put_results("prediction", verdicts, HEADLINE)
    write_text(paths.plot("prediction.csv"), pair_rows(slugs, outcome, cosines).write_csv())
