"""Agreement of two families: certain where the structure is one, chance where it is not."""

import numpy as np
import pytest
from scipy.stats import kstest

from em_geometry.geometry.families import agreement, mantel
from em_geometry.geometry.references import REFERENCES
from em_geometry.io.results import Results, as_estimate, flatten
from em_geometry.stats.estimate import Estimate, Floats

ORGANISMS = ["finance", "sports", "medical", "replication", "profanity", "malicious"]


def gram(seed: int, n: int = 6, width: int = 40) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(n, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


def run(cosines: Floats, names: list[str] = ORGANISMS) -> Results:
    pairs = {f"{a}__{b}": float(cosines[i, j]) for i, a in enumerate(names)
             for j, b in enumerate(names) if i < j}  # fmt: skip
    return Results({f"geometry.reference.{r}.cosine.{pair}": Estimate(value)
                    for r in REFERENCES for pair, value in pairs.items()})  # fmt: skip


@pytest.mark.parametrize(("change", "r"), [(1.0, 1.0), (0.5, 1.0), (-1.0, -1.0)])
def test_one_structure_is_found_with_the_smallest_p(change: float, r: float) -> None:
    """The cosines of one family are those of the other, shrunk or turned round."""
    tested = mantel(gram(0), change * gram(0) + 0.1, 0)
    assert tested.estimate.value == pytest.approx(r)
    assert tested.estimate.n == 15
    assert tested.p == tested.smallest_p == pytest.approx(1 / 720)


def test_unrelated_structures_give_every_p_alike() -> None:
    """Clusters in both families, of other members in each."""
    half = np.kron(np.eye(3), np.full((2, 2), 0.5))
    random = np.random.default_rng(1)
    ps = []
    for draw in range(300):
        order = random.permutation(6)
        one, other = (gram(1000 * draw + i) + half for i in range(2))
        ps.append(mantel(one, other[np.ix_(order, order)], 0).p)
    assert kstest(ps, "uniform").pvalue > 0.01
    assert np.mean(np.array(ps) <= 0.05) == pytest.approx(0.05, abs=0.035)


def test_it_is_the_correlation_of_the_pairs() -> None:
    one, other = gram(2), gram(3)
    pairs = np.triu_indices(6, 1)
    expected = np.corrcoef(one[pairs], other[pairs])[0, 1]
    assert mantel(one, other, 0).estimate.value == pytest.approx(expected)


def test_equal_cosines_have_no_structure() -> None:
    tested = mantel(np.eye(5), gram(4, 5), 0)
    assert tested.p is None
    assert "all equal" in tested.estimate.status


def test_runs_are_compared_by_the_names_that_both_have() -> None:
    """In another order, with an organism more, and under every reference."""
    order = [3, 0, 5, 1, 4, 2]
    other = run(gram(5)[np.ix_(order, order)], [ORGANISMS[i] for i in order])
    found = dict(flatten(agreement(run(gram(5)), other, ["extra", *ORGANISMS], 0)))
    assert {key.split(".")[0] for key in found} == {*REFERENCES, "transfer"}
    assert as_estimate(found["own_control.correlation"]).value == pytest.approx(1)
    assert found["own_control.organisms"] == 6


def test_too_few_in_common_is_said() -> None:
    found = agreement(run(gram(6)), run(gram(6)), ORGANISMS[:3], 0)
    assert "3 organisms in both runs" in str(found["base"])
    assert "0 organisms in both runs" in str(found["transfer"])


def test_transfer_goes_in_two_directions() -> None:
    """A matrix that is the other one turned round agrees less than with itself."""
    gains = np.random.default_rng(7).normal(size=(6, 6))
    tables = [Results({f"margins.transfer.{a}__{b}": Estimate(float(way[i, j]))
                       for i, a in enumerate(ORGANISMS) for j, b in enumerate(ORGANISMS)})
              for way in (gains, gains.T)]  # fmt: skip
    same, turned = (dict(flatten(agreement(tables[0], table, ORGANISMS, 0))) for table in tables)
    assert as_estimate(same["transfer.correlation"]) == Estimate(pytest.approx(1), n=30)
    assert (as_estimate(turned["transfer.correlation"]).value or 0) < 0.5
