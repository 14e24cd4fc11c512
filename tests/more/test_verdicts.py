"""Verdicts of one experiment: an effect needs Holm's p too."""

import numpy as np

from em_geometry.more.correction import corrected
from em_geometry.stats.estimate import Estimate
from em_geometry.stats.intervals import t_interval


def values(mean: float, error: float, n: int = 20) -> Estimate:
    noise = np.linspace(-1, 1, n)
    return t_interval(mean + noise * error * n**0.5 / noise.std(ddof=1))


def test_one_interval_in_many_is_no_effect_by_itself() -> None:
    strong, weak = values(1.0, 0.1), values(0.25, 0.1)
    many = {"strong": strong, "weak": weak, **{f"null{k}": values(0.01, 0.1) for k in range(20)}}
    alone, rows = (corrected(found, 0.1, 19) for found in ({"weak": weak}, many))
    assert alone["weak.says"] == "effect"
    assert (rows["strong.says"], rows["weak.says"]) == ("effect", "cannot tell")
    assert rows["weak.p"] < 0.05 < rows["weak.p_holm"]
    assert corrected({"none": Estimate.undefined("undefined")}, 0.1, 19) == {}
    assert corrected({"small": values(0.02, 0.005)}, 0.1, 19)["small.says"] == "no effect"
