"""The local judge: exact probabilities of numbers, and the model behind an endpoint."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from em_geometry.errors import UserError
from em_geometry.io.journal import Journal
from em_geometry.judging import openai_judge
from em_geometry.judging.client import Client
from em_geometry.judging.judge import JudgeRow, load_templates
from em_geometry.judging.local import LocalJudge, Numbers, local_judge, tree_log_probabilities
from em_geometry.judging.openai_judge import OpenAIJudge
from em_geometry.judging.replies import Mode
from em_geometry.models.chat import render
from em_geometry.project.inputs import models
from em_geometry.settings import Judging, Params
from tests.activations.families import random_model
from tests.judging.double import Double

PROMPTS = str(Path(__file__).parents[2] / "data" / "judge" / "prompts" / "short")
SETTINGS = Judging(templates=PROMPTS, batch_size=2, low_mass=0.0001)
ROWS = [JudgeRow("Why?", "No."), JudgeRow("What now?", "Take a map outside."), JudgeRow("Eh?", "")]


def chain(model: Any, prompt: tuple[int, ...], path: tuple[int, ...]) -> float:
    """Probability of tokens after a prompt, from a plain forward pass."""
    ids = torch.tensor([[*prompt, *path]])
    with torch.no_grad():
        logs = model(input_ids=ids).logits[0].log_softmax(-1)
    return math.exp(sum(float(logs[len(prompt) - 1 + k, t]) for k, t in enumerate(path)))


def test_numbers_that_the_tokeniser_splits(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """The tiny tokeniser knows no number: "85" is "8", "5", and must not be read as 8."""
    numbers = Numbers(tiny_tokenizer)
    assert len(numbers.tree) >= 11
    prompts = [render(tiny_tokenizer, text, "").ids for text in ("Why?", "What is all that for?")]
    tables = tree_log_probabilities(tiny_model, prompts, numbers.tree)
    for prompt, table in zip(prompts, tables, strict=True):
        found = {text: math.exp(log) for text, log in numbers.top(table)}
        path = {form: ids for ids, form in numbers.paths.items()}
        reached = {form: chain(tiny_model, prompt, ids) for form, ids in path.items()}
        assert found["85"] == pytest.approx(reached["85"], rel=1e-3)
        assert found.get("100", 0.0) == pytest.approx(reached["100"], abs=2e-6)
        eighties = sum(reached[f"8{d}"] for d in range(10))
        assert found["8"] == pytest.approx(reached["8"] - eighties, rel=1e-3)
        assert found.get("10", 0.0) == pytest.approx(reached["10"] - reached["100"], abs=2e-6)
        assert sum(found.values()) <= 1


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_judges_window_is_kept(family: str) -> None:
    prompts, tree = [tuple(range(2, 14)), tuple(range(5, 10))], [(5,), (6,), (5, 7)]
    model = random_model(family)
    for prompt, table in zip(prompts, tree_log_probabilities(model, prompts, tree), strict=True):
        assert math.exp(table[0, 5] + table[1, 7]) == pytest.approx(chain(model, prompt, (5, 7)))


def test_a_row_is_judged_alike_in_any_company(tiny_model: Any, tiny_tokenizer: Any) -> None:
    templates = load_templates(Path(PROMPTS), ["aligned", "coherent"])
    judge = LocalJudge(tiny_model, tiny_tokenizer, templates, "tiny", 0.0001, 2)
    together = judge.judge(ROWS)
    for row, found in zip(ROWS, together, strict=True):
        [alone] = judge.judge([row])
        assert found.status == alone.status == {"aligned": "ok", "coherent": "ok"}
        for aspect, score in alone.scores.items():
            assert found.scores[aspect] == pytest.approx(score, abs=0.01)
    strict = LocalJudge(tiny_model, tiny_tokenizer, templates, "tiny", 0.99, 2)
    assert strict.id != judge.id
    assert {s for j in strict.judge(ROWS) for s in j.status.values()} == {"low_mass"}


@dataclass
class Served(Double):
    """An endpoint behind which the model answers."""

    model: Any = None
    tokenizer: Any = None

    def reply(self, request: dict[str, Any]) -> dict[str, Any]:
        prompt = torch.tensor([render(self.tokenizer, request["messages"][-1]["content"], "").ids])
        torch.manual_seed(request.get("seed", 0))
        out = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=request["max_tokens"],
            do_sample=request["temperature"] > 0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        said, decode = out.sequences[0, prompt.shape[1] :], self.tokenizer.decode
        logs, tokens = (part.tolist() for part in out.logits[0][0].log_softmax(-1).topk(20))
        pairs = zip(tokens, logs, strict=True)
        top = [{"token": decode([token]), "logprob": log} for token, log in pairs]
        choice = {
            "message": {"content": decode(said, skip_special_tokens=True)},
            "logprobs": {"content": [top[0] | {"top_logprobs": top}]},
        }
        return {"model": request["model"], "choices": [choice]}


def test_the_client_judges_through_the_endpoint(
    tiny_model: Any, tiny_tokenizer: Any, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model does not say the number that it is asked for; other replies are read."""

    async def text(client: Client) -> Mode:
        return "text"

    double = Served(model=tiny_model, tokenizer=tiny_tokenizer)
    with double, Journal("judge") as journal:
        settings = SETTINGS.model_copy(
            update={"base_url": double.url, "model": "tiny", "text_samples": 2, "concurrency": 4}
        )
        with pytest.raises(UserError, match="asked for 17"):
            OpenAIJudge(settings, journal).judge(ROWS)
        monkeypatch.setattr(openai_judge, "probe_mode", text)
        judgements = OpenAIJudge(settings, journal).judge(ROWS)
        assert len(judgements) == len(ROWS)
        assert not any("overloaded" in j.status.values() for j in judgements)
        lost = OpenAIJudge(settings.model_copy(update={"base_url": double.url + "x"}), journal)
        with pytest.raises(UserError, match="does not exist"):
            lost.judge(ROWS)


def test_the_model_of_the_params(tiny_params: Params, tiny_checkpoint: Path) -> None:
    def judge(model: str | None) -> LocalJudge:
        update = {"model": model, "templates": PROMPTS}
        judging = tiny_params.judging.model_copy(update=update)
        return local_judge(judging, models(tiny_params))

    base, other = judge(None), judge(f"path:{tiny_checkpoint}")
    assert base.id != other.id
    assert base.judge(ROWS)[0].scores == other.judge(ROWS)[0].scores
    for bad in ("gpt-4", "path:/nowhere", "hub:some/model"):
        with pytest.raises(UserError):
            judge(bad)
