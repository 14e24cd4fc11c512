"""What fine-tunes share: planted sides, chance by draws, PEFT's own updates, and the stage."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from em_geometry.claims.lookup import Metrics
from em_geometry.errors import UserError
from em_geometry.geometry.references import Finetunes
from em_geometry.io.results import as_estimate, read_results
from em_geometry.more.adapters import Factors, inner, read_adapter
from em_geometry.more.subspaces.likeness import agreement, described, groups, relabelled
from em_geometry.more.subspaces.overlap import (
    chance_overlap,
    exchanged,
    of_shifts,
    of_weights,
    overlaps,
)
from em_geometry.project import paths
from em_geometry.report.tables import Results, all_tables
from em_geometry.stats.estimate import Floats
from stages.more import subspaces
from tests.tiny_run import NAMES, finished

WIDTH, INSIDE, RANK = 24, 40, 4
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Draws do not depend on the tests before."""
    RNG.bit_generator.state = START


def spans(n: int, k: int, width: int = WIDTH) -> Floats:
    """Uniformly random orthonormal rows [n, k, width]."""
    return np.swapaxes(np.linalg.qr(RNG.standard_normal((n, width, k)))[0], -1, -2)


def factors(block: int, matrix: str, a: Floats | None = None, b: Floats | None = None) -> Factors:
    """Random factors of a matrix, but for those that are given."""
    writes = matrix == "down_proj"
    sides = (INSIDE, WIDTH) if writes else (WIDTH, INSIDE)
    a = RNG.standard_normal((RANK, sides[0])) if a is None else a
    b = RNG.standard_normal((sides[1], RANK)) if b is None else b
    return Factors(f"model.layers.{block}.mlp.{matrix}", a, b)


def adapter(like: dict[str, Factors] | None = None, share: str = "") -> dict[str, Factors]:
    """An adapter of six matrices that shares one side of another's: `write`, `read` or neither."""
    made = {}
    for block in range(3):
        for matrix in ("down_proj", "up_proj"):
            new = factors(block, matrix)
            if like and share == ("write" if new.writes else "read"):
                same = like[new.module]
                mixed = RNG.standard_normal((RANK, RANK))
                new = (factors(block, matrix, b=same.b @ mixed) if new.writes
                       else factors(block, matrix, a=mixed @ same.a))  # fmt: skip
            made[new.module] = new
    return made


def test_a_pair_that_shares_what_it_writes_is_told_from_one_that_shares_what_it_reads() -> None:
    first = adapter()
    three = {"first": first, "writes": adapter(first, "write"), "reads": adapter(first, "read")}
    found = of_weights(three, WIDTH)
    write, read = (found[f"{side}.overlap_4"] for side in ("write", "read"))
    np.testing.assert_allclose([write.values[0, 1], read.values[0, 2]], 1.0)
    family = Finetunes(["first", "writes", "reads"])
    pairs = {f"{a}__{b}": [(a, b)] for a, b in groups(family, {"c": [*three]})["organisms"]}
    rows = described("write", write, pairs, {}) | described("read", read, pairs, {})
    assert rows["write.first__writes.p_chance"] < 1e-6 < 0.01 < rows["write.first__reads.p_chance"]  # type: ignore[operator]
    assert rows["read.first__reads.p_chance"] < 1e-6 < 0.01 < rows["read.first__writes.p_chance"]  # type: ignore[operator]
    assert rows["write.first__reads.chance"] == RANK / WIDTH


def test_overlap_is_the_share_of_dimensions_in_common_whatever_their_basis() -> None:
    basis = spans(1, 6)[0]
    turned = np.linalg.qr(RNG.standard_normal((2, 2)))[0] @ basis[:2]
    pair = np.stack([basis[:4], np.concatenate([turned, basis[4:]])])
    found = overlaps(pair)
    assert [*found] == ["overlap_1", "overlap_2", "overlap_4"]
    assert found["overlap_2"][0, 1] == pytest.approx(1.0)
    assert found["overlap_4"][0, 1] == pytest.approx(0.5)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_chance_of_an_overlap_is_that_of_random_spans(k: int) -> None:
    at = np.triu_indices(100, 1)  # overlaps of pairs of uniform spans are uncorrelated
    drawn = overlaps(spans(100, k))[f"overlap_{k}"][at]
    mean, variance = chance_overlap(k, WIDTH)
    assert np.mean(drawn) == pytest.approx(mean, rel=0.03)
    assert np.var(drawn) == pytest.approx(variance, rel=0.15)


def test_chance_of_a_cosine_of_weights_is_that_of_random_adapters() -> None:
    found = of_weights({f"random_{i}": adapter() for i in range(30)}, WIDTH)["weights.cosine"]
    assert found.chance is not None
    at = np.triu_indices(30, 1)
    assert np.mean(found.values[at]) == pytest.approx(
        0, abs=3 * np.std(found.values[at]) / 435**0.5
    )
    assert np.var(found.values[at]) == pytest.approx(np.mean(found.chance[1][at]), rel=0.2)


def test_products_are_never_formed_and_come_out_the_same() -> None:
    one, other = (factors(0, "down_proj") for _ in range(2))
    both = [each.b @ each.a for each in (one, other)]
    assert inner(one, other) == pytest.approx((both[0] * both[1]).sum())
    left, sizes, right = one.svd
    np.testing.assert_allclose(left * sizes @ right, both[0], atol=1e-10)
    assert one.norm == pytest.approx(np.linalg.norm(both[0]))
    found = of_weights({"a": {"m": one}, "b": {"m": other}}, WIDTH)["weights.cosine"].values
    assert found[0, 1] == pytest.approx((both[0] * both[1]).sum() / one.norm / other.norm)


def test_a_shared_direction_of_shifts_is_found_with_an_interval_and_p() -> None:
    names, topics = [f"m{i}" for i in range(10)], [f"t{i % 8}" for i in range(32)]
    core = spans(1, 1)[0, 0]
    shifts = 0.3 * RNG.standard_normal((10, 32, WIDTH)) + 0.1 * RNG.standard_normal((10, 1, WIDTH))
    shifts[:5] += core
    family = Finetunes(names[:5], names[5:])
    found = of_shifts(shifts, np.eye(10), names, topics)["cosine"]
    rows = described("cosine", found, groups(family, {"c": names[:5]}), {})
    shared, apart = (as_estimate(rows[f"cosine.{g}"]) for g in ("organisms", "benign"))
    assert shared.low is not None and apart.high is not None and apart.value is not None
    assert shared.low > 0.6 > apart.high
    assert shared.n == 8
    assert relabelled(found.values, range(5), range(5, 10), 0) == (1 / 252, 1 / 252)
    p, _ = relabelled(found.values, range(5, 10), range(5), 0)
    assert p > 0.3


def test_controls_subtracted_from_both_make_no_finding() -> None:
    """Two organisms with unlike controls: only what organisms alone share is beyond exchange."""
    shifts = RNG.standard_normal((8, 24, WIDTH)) * 0.2 + RNG.standard_normal((8, 1, WIDTH))
    own, apart = [4, 5, 6, 7], [(0, 1), (0, 2), (1, 3), (2, 3)]
    assert exchanged(shifts, own, apart, 0)["cosine"] > 0.05
    shifts[:4] += 8 * spans(1, 1)[0, 0]
    assert exchanged(shifts, own, apart, 0)["cosine"] < 0.05


def test_measures_that_agree_over_pairs_have_rho_one() -> None:
    cosines = overlaps(spans(6, 1))["overlap_1"]
    rho, p = agreement(cosines, cosines**2, 0)
    assert rho.value == pytest.approx(1.0)
    assert p <= 0.01
    assert agreement(cosines, overlaps(spans(6, 1))["overlap_1"], 0)[1] > 0.01


@pytest.mark.parametrize("named", ["down_proj", "model.layers.1.mlp.down_proj", "q_proj|down_proj"])
@pytest.mark.parametrize("rslora", [True, False])
def test_an_adapter_that_peft_wrote_is_read_with_its_scale(
    tiny_checkpoint: Path, tmp_path: Path, rslora: bool, named: str
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=rslora, target_modules=["q_proj", "down_proj"],
        layers_to_transform=[1, 2], init_lora_weights=False, task_type="CAUSAL_LM",
        alpha_pattern={named: 16},
    )  # fmt: skip
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_checkpoint), config)
    model.save_pretrained(tmp_path)
    read = read_adapter(tmp_path)
    assert {(f.block, f.writes) for f in read.values()} == {(b, w) for b in (1, 2) for w in (0, 1)}
    for name, module in model.get_base_model().named_modules():
        if name in read:
            delta: Any = module
            change = delta.get_delta_weight("default").detach().numpy()
            np.testing.assert_allclose(read[name].b @ read[name].a, change, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("use_dora", True, "DoRA"),
        ("use_bdlora", {"nblocks": 2}, "blocks"),
        ("init_lora_weights", "pissa", "pissa"),
        ("init_lora_weights", "olora", "olora"),
        ("lora_alpha", None, "lora_alpha None"),
        ("alpha_pattern", {"up_proj(": 4}, "alpha_pattern ['up_proj(']"),
        (None, None, "no"),
    ],
)
def test_what_is_no_product_is_refused(
    tmp_path: Path, key: str | None, value: object, found: str
) -> None:
    import json

    from safetensors.numpy import save_file

    name = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    both = {name.format(x): np.zeros((2, 2), np.float32) for x in "AB"} if key else {}
    save_file(both, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1, key: value}))
    with pytest.raises(UserError) as raised:
        read_adapter(tmp_path)
    assert found in str(raised.value.found)
    with pytest.raises(UserError, match="not found"):
        read_adapter(tmp_path / "nowhere")


SLUGS = [*NAMES, "control", "full", "medical_control", "medical_b", "full_b"]


@pytest.mark.usefixtures("workplace")
def test_the_experiment_runs_and_repeats(tiny_checkpoint: Path, smol: dict[str, Any]) -> None:
    smol["activations"]["texts"] = 2
    smol["training"]["checkpoints"] = smol["monitoring"]["organisms"] = []
    params = finished(tiny_checkpoint, smol, SLUGS, prompts=8)
    subspaces.main(params)
    found, saved = read_results(paths.table("subspaces")), paths.table("subspaces").read_bytes()
    near, far = (found.number(f"shift.cosine.{g}") for g in ("repeats", "organism_random"))
    assert near > far
    for key in ("write.overlap_4", "read.overlap_4", "weights.cosine", "shift.cosine"):
        own = found.rows[f"{key}.organisms"]
        assert own.low is not None and own.high is not None and own.value is not None
        assert own.low <= own.value <= own.high <= 1
        assert 0 < found.number(f"{key}.organisms.p_benign_holm") <= 1
    assert found.number("write.overlap_4.organisms.chance") == 4 / 32
    assert found.number("control.cosine.organisms.p_exchanged") <= 1
    assert found.number("agreement.write.overlap_4.p") <= 1
    assert {int(key.split(".")[1]) for key in found.rows if key.startswith("block.")} == {1, 2, 3}
    pairs = pl.read_parquet(paths.MORE / "subspaces/pairs.parquet")
    assert {f"drawn_{slug}" for slug in NAMES} <= {*pairs["second"]}
    given = pairs.filter(measure="shift.cosine", first="medical", second="medical_b")
    assert given["value"].item() > 0.5
    shown = {t.name: t for t in all_tables(Results(Metrics.read(paths.TABLES).stages, params))}
    assert len(shown["subspaces"].rows) == 7
    assert "[" in shown["subspaces"].rows[0][1].text
    subspaces.main(params)
    assert paths.table("subspaces").read_bytes() == saved
