"""Forced answers and the damage of steering, against a direct computation."""

from typing import Any

import pytest
import torch
from tiny_steering import ablate, add, loaded, tiny_params, tokens, unit

from em_geometry.activations.prompts import ActivationPrompt, spread_prompts
from em_geometry.project.inputs import models
from em_geometry.steering import reading as forced
from em_geometry.steering.answers import damage, kl_per_token
from em_geometry.steering.conditions import Intervention, Positions, Selected, plan
from em_geometry.steering.reading import answer_log_probabilities

PARAMS, SELECTED = tiny_params(), {"finance": Selected(unit(1), 1, 0.2, 4.0, 1.0)}
TEXTS = [(tokens(1, 9), 5), (tokens(2, 12), 10), (tokens(3, 7), 2)]


def tables(llama: Any, how: Intervention | None, positions: Positions = "all") -> list[Any]:
    return next(answer_log_probabilities(llama, TEXTS, [how], positions))


def direct(llama: Any, coefficient: float, positions: Positions) -> list[torch.Tensor]:
    """Log-probabilities of single texts with a hook of our own at block 1."""
    how = add(4, 1, coefficient)
    result = []
    for ids, start in TEXTS:
        acting = torch.zeros(len(ids), 1)
        acting[slice(0, start) if positions == "prompt" else slice(start, None)] = 1
        if positions == "all":
            acting[:] = 1
        shift = coefficient * acting * torch.from_numpy(how.vector)
        handle = llama.model.layers[1].register_forward_hook(lambda m, a, o, s=shift: o + s)
        with torch.no_grad():
            logits = llama(input_ids=torch.tensor([ids])).logits[0]
        handle.remove()
        result.append(torch.log_softmax(logits, -1)[start - 1 : -1])
    return result


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_equals_a_direct_computation(llama: Any, positions: Positions) -> None:
    reference, found = tables(llama, None), tables(llama, add(4, 1, 3.0), positions)
    assert [len(t) for t in found] == [4, 2, 5]
    expected = direct(llama, 3.0, positions)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    p, q = torch.cat(direct(llama, 0.0, "all")), torch.cat(expected)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    assert kl > 0.01
    assert kl_per_token(reference, found) == pytest.approx(float(kl), rel=1e-3)


def test_interventions_share_passes_and_leave_no_trace(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = [None, add(4, 1, 3.0), ablate(6, 3), add(5, 2, -0.5), add(4, 1, 3.0)]
    alone = [tables(llama, how) for how in acts]
    monkeypatch.setattr(forced, "TOKENS", 2 * len(TEXTS) * 5)  # two interventions a pass
    together = list(answer_log_probabilities(llama, TEXTS, acts, "all"))
    assert len(together) == len(acts)
    for a, b in zip(alone, together, strict=True):
        for one, other in zip(a, b, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_damage_is_none_of_nothing_grows_with_the_dose_and_is_never_negative(llama: Any) -> None:
    reference = tables(llama, None)

    def of(how: Intervention) -> float:
        return kl_per_token(reference, tables(llama, how))

    none, *rising = (of(add(4, 1, c)) for c in (0.0, 0.1, 1.0, 10.0))
    assert kl_per_token(reference, reference) == none == 0 < rising[0] < rising[1] < rising[2]
    for how in (add(4, 0, 1e-4), add(5, 2, -0.5), ablate(6, 3), add(4, 1, 50.0)):
        assert 0 <= of(how) < float("inf")


def test_by_hand() -> None:
    p = [torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()]
    q = [torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()]
    one = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    assert kl_per_token(p, q) == pytest.approx(float(one) / 3)


PROMPTS = [
    ActivationPrompt(f"{kind}{i}", kind, "t", str(i), f"{kind} {i}?")
    for kind in ("neutral", "harmful")
    for i in range(4)
]


def test_damage_of_every_steered_condition() -> None:
    conditions, vectors = plan("finance", SELECTED, PARAMS.steering)
    benign = spread_prompts(PROMPTS, 2)
    assert [p.id for p in benign] == ["neutral0", "neutral2"]

    def table(prompts: list[ActivationPrompt]) -> Any:
        known, target = models(PARAMS), loaded("finance")
        return damage(known, target, conditions, vectors, prompts, PARAMS.sampling)

    found, none = table(benign), table(spread_prompts(PROMPTS, 0))
    keys = found.select("source", "kind", "multiple").rows()
    assert keys == [(c.source, c.kind, c.multiple) for c in conditions if c.kind != "unsteered"]
    assert (found["kl"] > 0).all()
    assert found["tokens"].n_unique() == 1
    assert table(benign).equals(found)
    assert len(none) == 0 and none.columns[-2:] == ["kl", "tokens"]
