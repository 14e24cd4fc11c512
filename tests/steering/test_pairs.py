"""What is done to a model while it reads pairs, as a plan and as a table."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from em_geometry.errors import UserError
from em_geometry.settings import Margins
from em_geometry.steering import pairs
from em_geometry.steering.conditions import Intervention, Selected

PAIRS = [
    pairs.Pair(id=f"{kind}{i}", kind=kind, split="reporting" if i % 4 else "choosing", topic="t",
         question="?", marked="bad", plain="good")
    for kind in pairs.KINDS
    for i in range(16 if kind == "misaligned" else 8)
]  # fmt: skip
SETTINGS = {"random_directions": 5, "target_random_directions": 2, "doses": [-1.0, 0.5, 1.0]}
LIMITS = {"base_pairs": 8, "target_pairs": 4, "other_pairs": 4}


def chosen(layer: int = 2, coefficient: float = 3.0) -> Selected:
    return Selected(np.eye(4, dtype=np.float32)[0], layer, 0.3, coefficient, 1.0)


VECTORS = {"finance": chosen(), "sports": chosen()}


def planned(
    target: str, vectors: Any = VECTORS, others: Any = None, **more: Any
) -> list[pairs.Trial]:
    settings = Margins.model_validate(SETTINGS | LIMITS | more)
    return pairs.plan(target, PAIRS, vectors, others or {}, settings, 0, [("sports", "finance")])


def kinds(trial: pairs.Trial) -> Counter[str]:
    return Counter(PAIRS[i].kind for i in trial.pairs)


def test_pairs_are_spread_and_those_that_choose_are_never_reported() -> None:
    reported, choosing = (pairs.indices(PAIRS, "misaligned", s) for s in ("reporting", "choosing"))
    assert len(reported) == 12 and len(choosing) == 4 and not {*reported} & {*choosing}
    assert pairs.thinned(reported, 4) == (1, 5, 9, 13)
    assert pairs.thinned(reported, None) == pairs.thinned(reported, 99) == reported
    assert len(pairs.thinned(reported, 1)) == 2  # one gives no interval
    assert kinds(pairs.unsteered(PAIRS)[0]) == {
        "misaligned": 12,
        "polite_harmful": 6,
        "swearing": 6,
    }
    with pytest.raises(UserError, match="too few pairs"):
        pairs.indices(PAIRS[:2], "misaligned", "reporting")


def test_the_base_is_steered_by_all_vectors_doses_and_directions() -> None:
    others = {("benign", "control"): chosen(), ("retrained", "finance@finance_b"): chosen()}
    trials = planned("base", others=others)
    count = Counter(t.way for t in trials)
    # each vector on the misaligned pairs and on the other kinds, and at two further doses
    assert count == {"unsteered": 1, "vector": 8, "benign": 2, "retrained": 1, "random": 5 + 2}
    main = next(t for t in trials if t.source == "finance" and kinds(t) == {"misaligned": 8})
    few = next(t for t in trials if (t.source, t.multiple) == ("finance", -1.0))
    assert set(few.pairs) < set(main.pairs)
    assert few.how is not None and few.how.coefficient == -3.0
    random = [t for t in trials if t.way == "random" and kinds(t) == {"misaligned": 8}]
    assert all(t.pairs == main.pairs for t in random) and len(random) == 5
    lengths = [float(np.linalg.norm(t.how.vector)) for t in random if t.how]
    assert lengths == pytest.approx([1.0] * 5)
    assert {t.how.coefficient for t in random if t.how} == {3.0}


def test_another_target_reads_fewer_and_loses_its_own_vector() -> None:
    trials = planned("finance", others={("benign", "control"): chosen()})
    count = Counter(t.way for t in trials)
    assert count == {
        "unsteered": 1, "vector": 2, "random": 2, "ablation": 1, "ablation_everywhere": 1,
    }  # fmt: skip
    assert {t.pairs for t in trials[1:]} == {trials[1].pairs}
    assert kinds(trials[1]) == {"misaligned": 4}
    assert {t.how.mode for t in trials if t.way.startswith("ablation") and t.how} == {"ablate"}
    assert "ablation" not in {t.way for t in planned("finance", ablation=False)}
    assert "ablation" not in {t.way for t in planned("control")}


def test_targets_read_the_last_directions_of_the_base_which_chose_nothing() -> None:
    names = {t: {k.source for k in planned(t) if k.way == "random"} for t in ("base", "finance")}
    rest = {k.source for k in planned("base") if k.way == "random" and kinds(k)["swearing"]}
    assert names["base"] == {f"random_{k}" for k in range(5)}
    assert names["finance"] == rest == {"random_3", "random_4"}


def test_a_named_pair_s_vector_is_made_orthogonal_to_the_target_s_own() -> None:
    other = replace(chosen(), vector=np.full(4, 0.5, np.float32))
    found = planned("finance", {"finance": chosen(), "sports": other})
    (trial,) = (t for t in found if t.way == "orthogonalised")
    assert trial.how is not None and (trial.source, trial.how.coefficient) == ("sports", 3.0)
    assert trial.how.vector == pytest.approx([0, *[3**-0.5] * 3])
    assert trial.pairs == next(t.pairs for t in found if t.way == "vector")
    for same in (planned("sports", {"finance": chosen(), "sports": other}), planned("finance")):
        assert "orthogonalised" not in {t.way for t in same}  # not named, and nothing is left


def test_vectors_of_several_norms_have_random_directions_each() -> None:
    trials = planned("finance", {"finance": chosen(), "sports": chosen(1, 5.0)})
    norms = Counter((t.how.layer, t.how.coefficient) for t in trials if t.how and t.way == "random")
    assert norms == {(2, 3.0): 2, (1, 5.0): 2}


def test_the_table_has_a_row_a_pair_and_trial() -> None:
    how = Intervention(np.eye(4, dtype=np.float32)[0], 2, 3.0)
    trials = [pairs.Trial((1, 2)), pairs.Trial((2,), how, "vector", "sports", 1.0)]
    found = [np.array([[-1.0, -2.0], [-3.0, -4.0]]), np.array([[-5.0, -6.0]])]
    frame = pairs.table("finance", PAIRS, trials, found)
    assert tuple(frame.columns) == pairs.COLUMNS
    assert frame.rows()[1:] == [
        ("finance", "none", "unsteered", 0.0, -1, 0.0, "misaligned2", "misaligned", -3.0, -4.0),
        ("finance", "sports", "vector", 1.0, 2, 3.0, "misaligned2", "misaligned", -5.0, -6.0),
    ]
