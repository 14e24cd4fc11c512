"""A language model in process as the judge: exact log-probabilities, no endpoint, no key.

The prompts and the aggregation are those of the endpoint's judge. An endpoint shows the first
token's twenty best alternatives; here every number's probability is read, also where the
tokeniser splits it ("85" as "8", "5"): the beginnings of all numbers are appended to the prompt
as branches of a tree, each seeing the prompt and its own ancestors only, so one pass yields all.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from em_geometry.judging.judge import (
    HIGHEST,
    WORDS,
    Judgement,
    JudgeRow,
    Template,
    from_logprobs,
    judge_id,
    load_templates,
    token_meaning,
)
from em_geometry.models.chat import render, sorted_batches
from em_geometry.models.checkpoint import (
    checkpoint,
    folder_of,
    folder_sha256,
    model_source,
    pinned,
    tokenizer_of,
)
from em_geometry.models.load import Models, setup_torch
from em_geometry.settings import BASE, Judging

NEGLIGIBLE = 1e-6  # numbers less probable than this are not stored
Top = list[tuple[str, float]]  # (text, natural log-probability)


class LocalJudge:
    """Judges with a causal language model of transformers, which has a chat template.

    Args:
        templates: aspect -> what is asked, as in `Template`.
        name: of the model and its weights; part of the judge's id.
        low_mass: least probability on numbers that makes a score.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        templates: Mapping[str, str | Template],
        name: str = "model",
        low_mass: float = 0.25,
        batch_size: int = 8,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._low_mass, self._batch_size = low_mass, batch_size
        self._templates = {
            aspect: Template(given) if isinstance(given, str) else given
            for aspect, given in templates.items()
        }
        self._numbers = Numbers(tokenizer)
        self.id = judge_id(f"local:{name}:logprob", self._templates, low_mass)

    def judge(self, rows: Sequence[JudgeRow], label: str = "judge") -> list[Judgement]:
        """One judgement a row, in order."""
        judgements = [Judgement() for _ in rows]
        for aspect, template in self._templates.items():
            ids = [render(self._tokenizer, template.render(row), "").ids for row in rows]
            for batch in sorted_batches([len(i) for i in ids], self._batch_size):
                prompts = [ids[i] for i in batch]
                logs = tree_log_probabilities(self._model, prompts, self._numbers.tree)
                for i, table in zip(batch, logs, strict=True):
                    top = self._numbers.top(table)
                    verdict = from_logprobs(top, self._low_mass)
                    judgements[i].add(aspect, verdict, json.dumps([{"top": top}]))
        return judgements


class Numbers:
    """How a tokeniser writes 0..100 and the two words.

    Attributes:
        tree: beginnings of numbers that a longer number goes on from, parents first.
        paths: token ids and text of every number, with and without a space before it.
    """

    def __init__(self, tokenizer: Any) -> None:
        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

        written = [form for n in range(HIGHEST + 1) for form in (f"{n}", f" {n}")]
        self.paths = {ids(form): form for form in written}
        starts = {path[:k] for path in self.paths for k in range(1, len(path))}
        self.tree = sorted(starts, key=lambda path: (len(path), path))
        first = {ids(form)[0] for word in WORDS for form in (word, f" {word}")}
        pieces = [(token, tokenizer.decode([token])) for token in sorted(first)]
        self.words = [(t, piece) for t, piece in pieces if isinstance(token_meaning(piece), str)]

    def top(self, table: Any) -> Top:
        """Every number and word as the reply, by probability, from log-probabilities.

        A number's probability is that of its tokens less that of the numbers that go on from
        them ("8" less "80".."89"), so the sum over all numbers is at most 1. Row 0 of the table
        [1 + tree, vocabulary] is after the prompt alone.
        """
        row = {(): 0} | {start: i for i, start in enumerate(self.tree, start=1)}
        reached = {
            path: math.exp(sum(float(table[row[path[:k]], t]) for k, t in enumerate(path)))
            for path in self.paths
        }
        alone = dict(reached)
        for path, probability in reached.items():
            starts = [path[:k] for k in range(1, len(path)) if path[:k] in self.paths]
            if starts:
                alone[starts[-1]] -= probability
        found = [(self.paths[path], p) for path, p in alone.items() if p > NEGLIGIBLE]
        found += [(text, math.exp(float(table[0, token]))) for token, text in self.words]
        found.sort(key=lambda pair: -pair[1])
        return [(text, round(math.log(p), 6)) for text, p in found if p > NEGLIGIBLE]


def tree_log_probabilities(
    model: Any, prompts: Sequence[tuple[int, ...]], tree: Sequence[tuple[int, ...]]
) -> Any:
    """Next-token log-probabilities [prompt, 1 + tree, vocabulary] after each prompt and branch.

    `tree` is of token sequences; every proper beginning of one is there too, before it.
    """
    import torch

    from em_geometry.activations.blocks import windowed

    width, nodes = max(map(len, prompts)), len(tree)
    ids = torch.zeros(len(prompts), width + nodes, dtype=torch.long)
    there, position = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    sees = torch.ones(width + nodes, width + nodes, dtype=torch.bool).tril()
    sees[width:, width:] = torch.eye(nodes, dtype=torch.bool)
    where = {branch: width + i for i, branch in enumerate(tree)}
    for branch, at in where.items():
        for k in range(1, len(branch)):
            sees[at, where[branch[:k]]] = True
    for i, prompt in enumerate(prompts):
        pad = width - len(prompt)
        ids[i, pad:] = torch.tensor([*prompt, *(branch[-1] for branch in tree)])
        there[i, pad:] = True
        position[i, pad:width] = torch.arange(len(prompt))
        position[i, width:] = torch.tensor([len(prompt) + len(b) - 1 for b in tree])
    mask: Any = there.long()
    if tree:
        seen = sees[None, None] & there[:, None, None, :]
        mask = torch.zeros(seen.shape, dtype=model.dtype)
        mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    mask, position = mask.to(model.device), position.to(model.device)
    with torch.no_grad():
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=windowed(model, mask, position) if tree else mask,
            position_ids=position,
            logits_to_keep=nodes + 1,
            use_cache=False,
        ).logits
    return logits.float().log_softmax(-1).cpu()


def local_judge(judging: Judging, models: Models) -> LocalJudge:
    """The judge of `judging.model` (path:<folder> | hub:<owner/name>; null = the base model).

    Raises:
        UserError: no such model, or it lacks weights or a tokenizer.
    """
    if judging.model is None:
        base = models.load(BASE)
        model, tokenizer, name = base.model, base.tokenizer, f"base-{base.sha256[:8]}"
    else:
        kind, source = model_source(judging.model, "judging.model", ("path", "hub"))
        hub = {"revision": pinned(judging.revision, "judging.revision")} if kind == "hub" else {}
        place = source if hub else str(folder_of(source))
        mark = hub.get("revision") or folder_sha256(Path(place))
        device = setup_torch(models.run)
        model, name = checkpoint(place, hub, models.run).eval(), f"{Path(source).name}-{mark[:8]}"
        if models.run.device_map is None:  # else accelerate has placed it
            model = model.to(device)
        tokenizer = tokenizer_of(place, hub, models.origin)
    templates = load_templates(Path(judging.templates), judging.aspects)
    return LocalJudge(model, tokenizer, templates, name, judging.low_mass, judging.batch_size)
