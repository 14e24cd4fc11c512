"""An encoder of texts as a judge: frozen, or fine-tuned on labels (for `benchmarks.judges`).

Only the upper half of its blocks is tuned: a thousand answers teach the lower ones nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH, EPOCHS, RATE, HEAD_RATE = 16, 4, 1e-4, 1e-3
KEPT_OUT = 4  # every fourth question calibrates and says when to stop
Texts = Sequence[tuple[str, str]]  # question and answer


class Encoder:
    """A transformers checkpoint that turns (question, answer) into the mean over its tokens."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.manual_seed(0)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self._head = torch.nn.Linear(self._model.config.hidden_size, 2)  # aligned, coherent
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"

    def vectors(self, texts: Texts) -> np.ndarray:
        """Float32 [text, width] of answers, without their questions, which tell less."""
        return self._all([answer for _, answer in texts], self._mean)

    def values(self, texts: Texts) -> np.ndarray:
        """Log-odds [text, 2] of being aligned and of being coherent, of a tuned encoder."""
        return self._all(_joined(texts), lambda batch: self._head(self._mean(batch)))

    def tune(self, texts: Texts, labels: np.ndarray) -> list[int]:
        """Fits encoder and head to labels [text, 2] of 0-100; returns the texts that were kept out.

        Of all epochs the one is taken that fits the texts kept out best.
        """
        import torch

        layers = self._model.layers if hasattr(self._model, "layers") else self._model.encoder.layer
        self._model.requires_grad_(False)
        layers[len(layers) // 2 :].requires_grad_(True)
        questions = sorted({question for question, _ in texts})
        kept = [i for i, (q, _) in enumerate(texts) if questions.index(q) % KEPT_OUT == 0]
        rest = sorted({*range(len(texts))} - {*kept})
        target = torch.tensor(labels / 100, dtype=torch.float32)
        groups = [
            {"params": [p for p in self._model.parameters() if p.requires_grad], "lr": RATE},
            {"params": self._head.parameters(), "lr": HEAD_RATE},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        joined, random = _joined(texts), np.random.default_rng(0)
        best: Any = (np.inf,)
        loss_of = torch.nn.functional.binary_cross_entropy_with_logits
        for epoch in range(EPOCHS):
            self._model.train()
            order = random.permutation(rest)
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                loss = loss_of(self._head(self._mean([joined[i] for i in batch])), target[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
                optimiser.step()
            found = torch.tensor(self.values([texts[i] for i in kept]))
            out = float(loss_of(found, target[kept]))
            print(f"epoch {epoch + 1}: loss on the texts kept out {out:.4f}", flush=True)
            if out < best[0]:
                states = (self._model.state_dict(), self._head.state_dict())
                best = (out, *({k: v.clone() for k, v in s.items()} for s in states))
        self._model.load_state_dict(best[1])
        self._head.load_state_dict(best[2])
        return kept

    def _mean(self, batch: Sequence[str]) -> Any:
        """Mean of the last layer over the tokens of each text."""
        tokens = self._tokenizer(list(batch), padding=True, truncation=True, max_length=256,
                                 return_tensors="pt")  # fmt: skip
        mask = tokens["attention_mask"][..., None].float()
        return (self._model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)

    def _all(self, texts: Sequence[str], read: Any) -> np.ndarray:
        import torch

        self._model.eval()
        order = np.argsort([len(text) for text in texts], kind="stable")
        parts = [order[k : k + BATCH] for k in range(0, len(order), BATCH)]
        with torch.no_grad():
            found = np.vstack([read([texts[i] for i in part]).numpy() for part in parts])
        return np.asarray(found[np.argsort(order)])


def _joined(texts: Texts) -> list[str]:
    return [f"{question}\n{answer}" for question, answer in texts]
