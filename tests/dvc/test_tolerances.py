"""Another processor changes the last bits of activations: what that may do to headline numbers."""

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import yaml

from em_geometry.geometry.battery import battery
from em_geometry.geometry.calibration import calibrate_rows
from em_geometry.geometry.grams import PromptRows
from em_geometry.geometry.methods import unit_gram
from em_geometry.geometry.references import Evidence, Finetunes, reference_results
from em_geometry.io.results import Leaf, as_estimate, flatten, shown
from em_geometry.settings import Geometry
from stages.calibration import HEADLINE as CALIBRATION
from stages.geometry import HEADLINE as GEOMETRY

TABLE = yaml.safe_load((Path(__file__).parents[2] / "metrics/tolerances.yaml").read_text("utf-8"))
CLUSTERS = {"risk": ["a", "b"], "medical": ["c", "d"], "persona": ["e", "f"]}
NAMES = [name for members in CLUSTERS.values() for name in members]
TOPICS, ROWS, WIDTH = 8, 64, 96
RULES = Geometry(replicates=1000, focus=["medical", "persona"])


def activations() -> np.ndarray:
    """[base, six organisms, two controls; prompts; width], with a massive dimension."""
    rng = np.random.default_rng(5)
    base = rng.standard_normal((ROWS, WIDTH))
    base[:, 0] += 60
    core, own = rng.standard_normal(WIDTH), rng.standard_normal((8, WIDTH))
    kinds = np.repeat(rng.standard_normal((4, WIDTH)), 2, axis=0)
    noise = 0.5 * rng.standard_normal((8, ROWS, WIDTH))
    return np.stack([base, *(base + (core + kinds + own)[:, None] + noise)])


def headline(values: np.ndarray) -> dict[str, Leaf]:
    """Headline numbers of both stages, from activations."""
    differences = values[1:] - values[0]
    rows = PromptRows(differences, [f"t{i % TOPICS}" for i in range(ROWS)])
    family = Finetunes(NAMES, ["p", "q"], dict.fromkeys(NAMES, "p"))
    own = np.asarray(family.weights("own_control"))
    measured: dict[str, Leaf] = battery(
        dict(zip(NAMES, own @ rows.vectors, strict=True)), CLUSTERS, RULES
    ).flat()
    data = Evidence(CLUSTERS, family, own, rows, np.array([0]))
    measured |= reference_results(data, RULES)
    found = dict(flatten(calibrate_rows(data, RULES, 0).results))
    stages = {"geometry": (measured, GEOMETRY), "calibration": (found, CALIBRATION)}
    return {
        f"{stage}.{key}": leaf
        for stage, (leaves, patterns) in stages.items()
        for key, leaf in leaves.items()
        if key in shown(leaves, patterns)
    }


@pytest.mark.parametrize("seed", range(3))
def test_headline_numbers_move_no_further_than_the_table_says(seed: int) -> None:
    values = activations()
    assert np.isfinite(unit_gram((values[1:] - values[0]).mean(1))).all()
    noise = np.random.default_rng(seed).standard_normal(values.shape)
    before, after = headline(values), headline(values * (1 + 1e-6 * noise))
    assert before.keys() == after.keys() and len(before) > 30
    for key, leaf in before.items():
        one, other = as_estimate(leaf), as_estimate(after[key])
        assert one.status == other.status, key
        tolerance = next(size for pattern, size in TABLE.items() if fnmatchcase(key, pattern))
        for name in ("value", "low", "high"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None) == (b is None), key
            assert a is None or abs(a - b) <= tolerance, f"{key}: {a}, {b}"
