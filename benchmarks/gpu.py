"""What a GPU does with models of the shapes of Llama-3.1-8B and Qwen2.5-7B, in under 9 minutes.

    pip install torch transformers peft numpy pydantic ruamel.yaml
    python -m benchmarks.gpu --usd-per-hour 2.5

From the root of a checkout, on any CUDA machine; no network, key or download, as the weights are
random numbers in bfloat16. The steps are the library's own, at the batch sizes of the profiles
`llama31_8b` and `qwen25_7b`: capture, margins, steered answers (also one condition at a time with
plain `generate`), LoRA training, a local judge. Prints and writes tokens a second, the share of the
card's peak, memory, and what both profiles would take. `--miniature` does it on a CPU in seconds.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from em_geometry.activations.blocks import block_stack
from em_geometry.activations.capture import capture
from em_geometry.activations.prompts import Text
from em_geometry.judging.local import tree_log_probabilities
from em_geometry.models.load import setup_torch
from em_geometry.models.train import Example, fit, with_adapter
from em_geometry.project.work import JUDGE_PROMPT, count
from em_geometry.settings import Params, Run, Sampling, load_params
from em_geometry.steering import answers, margins
from em_geometry.steering.conditions import Intervention
from em_geometry.steering.hooks import steered

RESULTS = Path("benchmarks/gpu.json")
MINUTES = 7.0  # of all measurements; building the models comes to it
QUESTION, PAIR = 50, 45  # tokens of a question in its template; of each answer of a pair
STEPS = 32  # tokens of an answer that are timed, in its middle
# Dense bfloat16 peaks in TFLOP/s as the maker prints them, by words of the card's name; of other
# cards the peak is measured.
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312,
         "L40S": 362, "L40": 181, "L4": 121, "A10G": 70, "A10": 125}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A model's architecture, and how its tokenizer writes the numbers from 0 to 100.

    Attributes:
        branches: beginnings of numbers that a longer one goes on from, with and without a space.
    """

    profile: str
    kind: str
    config: dict[str, int]
    branches: tuple[tuple[int, ...], ...]

    def small(self) -> Shape:
        """The same in miniature."""
        tiny = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96,
                "num_hidden_layers": 4, "num_attention_heads": 4,
                "num_key_value_heads": 2}  # fmt: skip
        return replace(self, config={**self.config, **tiny})

    def build(self, dtype: torch.dtype, device: torch.device | str) -> PreTrainedModel:
        """A model of random weights, which no end token stops."""
        ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        config = AutoConfig.for_model(self.kind, **self.config, **ids, tie_word_embeddings=False)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


DIGITS = [*((d,) for d in range(1, 10)), (1, 0)]
SHAPES = {
    "Llama-3.1-8B": Shape(
        "llama31_8b",
        "llama",
        {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
         "max_position_embeddings": 131_072},
        ((10,),),  # a space; numbers of up to three digits are one token
    ),
    "Qwen2.5-7B": Shape(
        "qwen25_7b",
        "qwen2",
        {"vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944,
         "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
         "max_position_embeddings": 32_768},
        (*DIGITS, (10,), *((10, *path) for path in DIGITS)),  # a token a digit
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        tokens_s: tokens a second.
        share: of the card's peak that the products of matrices took up.
        memory_gb: the most that was allocated.
        batch: rows together.
    """

    tokens_s: float
    share: float
    memory_gb: float
    batch: int


class Bench:
    """Measures a model: a slot of time for each step, and no batch that would take longer.

    Args:
        branches: as in `Shape`.
        peak: operations a second.
        slot: seconds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        branches: tuple[tuple[int, ...], ...],
        params: Params,
        peak: float,
        slot: float,
    ) -> None:
        self.model, self.branches, self.params = model, branches, params
        self.peak, self.slot = peak, slot
        config = model.config
        self.blocks, self.words = config.num_hidden_layers, config.vocab_size
        self.width = config.hidden_size
        self.head = self.words * self.width
        self.body = sum(p.numel() for p in model.parameters()) - 2 * self.head
        self._random = np.random.default_rng(0)

    def ids(self, tokens: int) -> tuple[int, ...]:
        """Random token ids."""
        return tuple(self._random.integers(11, self.words, tokens).tolist())

    def how(self, layer: int) -> Intervention:
        """A random direction of unit length at a block."""
        vector = self._random.standard_normal(self.width).astype(np.float32)
        return Intervention(vector / np.linalg.norm(vector), layer, 1.0)

    def rows(self, wanted: int, tokens: int) -> int:
        """So many rows of so many tokens, or as many as half a slot has time for.

        A quarter of the peak is what a model is thought to reach at the least.
        """
        flops = 2 * self.body * tokens
        return max(1, min(wanted, int(self.slot / 2 * 0.25 * self.peak / flops)))

    def seconds(self, work: Callable[[], object]) -> float:
        """Mean seconds of a piece of work, after a first one, counted where it is too slow."""
        start, done = time.perf_counter(), 0
        work()
        wait(self.model.device)
        if (first := time.perf_counter() - start) > self.slot:
            return first
        start = time.perf_counter()
        while not done or time.perf_counter() - start < self.slot / 2:
            work()
            wait(self.model.device)
            done += 1
        return (time.perf_counter() - start) / done

    def figure(self, tokens: float, flops: float, seconds: float, batch: int) -> Figure:
        """Of work on so many tokens, with so many floating-point operations."""
        cuda = self.model.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated() / 1e9 if cuda else 0.0
        return Figure(tokens / seconds, flops / seconds / self.peak, memory, batch)

    def attention(self, tokens: int, context: float) -> float:
        """Operations of attention for tokens that see so many others on average, all blocks."""
        return float(4.0 * tokens * context * self.width * self.blocks)

    def capture(self) -> dict[str, Figure]:
        """Answers of full length, and the bare stack of blocks on them as a peer."""
        length = QUESTION + self.params.sampling.max_new_tokens
        rows = self.rows(self.params.activations.batch_size, length)
        texts = [Text(self.ids(length), ((QUESTION, length),)) for _ in range(rows)]
        ids = torch.tensor([t.ids for t in texts], device=self.model.device)

        def bare() -> None:
            with torch.no_grad():
                block_stack(self.model)(input_ids=ids, use_cache=False)

        tokens = rows * length
        flops = 2.0 * self.body * tokens + self.attention(tokens, length / 2)
        found = {"capture": lambda: capture(self.model, texts), "bare forward": bare}
        return {n: self.figure(tokens, flops, self.seconds(w), rows) for n, w in found.items()}

    def margins(self) -> dict[str, Figure]:
        """Pairs under as many interventions at one block as a unit of the journal has."""
        layer, length = self.blocks // 2, QUESTION + 2 * PAIR
        pairs = max(1, margins.PACKED // length)
        ways = [self.how(layer) for _ in range(self.rows(margins.AT_ONCE, pairs * length))]
        sizes = (QUESTION, PAIR, PAIR)
        rows = [margins.Row(*map(self.ids, sizes)) for _ in range(pairs)]
        tokens = len(ways) * len(rows) * length
        read = len(rows) * length * (layer + 1) + tokens * (self.blocks - layer - 1)
        flops = 2.0 * self.body * read / self.blocks
        flops += 2.0 * self.head * tokens * (length - QUESTION) / length
        seconds = self.seconds(partial(margins.pair_log_probabilities, self.model, rows, ways))
        return {"margins": self.figure(tokens, flops, seconds, len(ways) * len(rows))}

    def answers(self) -> dict[str, Figure]:
        """Steered answers in the middle of their length: many conditions a batch, then one each.

        What reading the prompts takes is measured alone, and taken off.
        """
        given = QUESTION + self.params.sampling.max_new_tokens // 2
        layer, rows = self.blocks // 2, self.rows(self.params.sampling.batch_size, given)
        asked = [self.ids(given) for _ in range(min(rows, 24))]  # 8 questions in 3 variants
        ways = [self.how(layer) for _ in range(math.ceil(rows / len(asked)))]
        every = [answers.Row(asked[i % len(asked)], i, ways[i // len(asked)]) for i in range(rows)]
        ids = torch.tensor(asked, device=self.model.device)

        def ours(steps: int) -> None:
            how = Sampling(temperature=1.0, max_new_tokens=steps)
            answers.sample(self.model, every, how, frozenset())

        def plain(steps: int) -> None:
            with steered(self.model, ways[0].vector, layer, coefficient=1.0), torch.no_grad():
                self.model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True,
                    temperature=1.0, top_k=0, max_new_tokens=steps, pad_token_id=0,
                )  # fmt: skip

        found = {}
        for name, work, batch in (("answers", ours, rows), ("plain generate", plain, len(asked))):
            whole, first = (self.seconds(partial(work, steps)) for steps in (STEPS + 1, 1))
            tokens, seconds = batch * STEPS, max(whole - first, 1e-6)
            flops = 2.0 * (self.body + self.head) * tokens + self.attention(tokens, given)
            fitted = answers._largest.get(str(self.model.device), batch)
            found[name] = self.figure(tokens, flops, seconds, min(batch, fitted))
        return found

    def judge(self) -> dict[str, Figure]:
        """Prompts of a judge with every number's probability, one aspect."""
        length = JUDGE_PROMPT + QUESTION + self.params.sampling.max_new_tokens
        rows = self.rows(self.params.judging.batch_size, length)
        prompts = [self.ids(length) for _ in range(rows)]
        tokens = rows * length
        flops = 2.0 * self.body * tokens + self.attention(tokens, length / 2)
        work = partial(tree_log_probabilities, self.model, prompts, self.branches)
        return {"local judge": self.figure(tokens, flops, self.seconds(work), rows)}

    def training(self) -> dict[str, Figure]:
        """Steps of the profile's LoRA of highest rank; last, as it wraps the model."""
        recipe = self.params.recipes["model_organisms"]
        length = QUESTION + 2 * PAIR
        batch = self.rows(recipe.batch_size, 3 * length)
        steps = max(1, self.rows(16 * batch, 3 * length) // batch)
        examples = [Example(self.ids(length), QUESTION) for _ in range(batch * steps)]
        recipe = recipe.model_copy(update={"batch_size": batch, "epochs": 1})
        model, tokens = with_adapter(self.model, recipe, 0), batch * steps * length
        flops = 4.0 * (self.body * tokens + self.head * tokens * 2 * PAIR / length)
        seconds = self.seconds(partial(fit, model, examples, recipe, 0, "steps"))
        return {"training": self.figure(tokens, flops, seconds, batch)}


STEPS_OF_WORK = (Bench.capture, Bench.margins, Bench.answers, Bench.judge, Bench.training)
TIMED = 9  # pieces of work of a model, each of which gets a slot


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measured_peak(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations a second in products of square matrices [size, size]."""
    a = torch.randn(size, size, dtype=dtype, device=device)
    for rounds in (2, 10):  # the first to warm up
        wait(device)
        start = time.perf_counter()
        for _ in range(rounds):
            a @ a
        wait(device)
    return rounds * 2.0 * size**3 / (time.perf_counter() - start)


def measured(bench: Bench, end: float) -> dict[str, Any]:
    """All steps of one model; of one that does not fit, or comes too late, why it is missing."""
    found: dict[str, Any] = {}
    for step in STEPS_OF_WORK:
        if time.monotonic() > end:
            found[step.__name__] = "left out: no time was left"
            continue
        if bench.model.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            with redirect_stderr(io.StringIO()):  # progress of trainings
                found |= {name: asdict(figure) for name, figure in step(bench).items()}
        except torch.OutOfMemoryError:
            found[step.__name__] = "left out: more memory is needed"
    return found


def extrapolated(params: Params, found: dict[str, Any], usd_per_hour: float) -> dict[str, Any]:
    """Hours and money of a profile at these rates, tokens of answers at most; None: not known."""
    work = count(params)
    parts = {
        "capture": work.forward_tokens - work.pair_tokens,
        "margins": work.pair_tokens,
        "answers": work.generated_tokens,
        "training": work.trained_tokens,
        "local judge": work.judge_tokens,
    }
    hours: dict[str, float | None] = {
        name: tokens / found[name]["tokens_s"] / 3600 if isinstance(found.get(name), dict) else None
        for name, tokens in parts.items()
    }
    judge, known = hours.pop("local judge"), [h for h in hours.values() if h is not None]
    whole = sum(known) if len(known) == len(hours) else None
    return {
        "hours": whole,
        "machine_usd": None if whole is None else whole * usd_per_hour,
        "judge_usd_at_most": work.judge_usd,
        "hours_of_a_local_judge": judge,
        "hours_by_step": hours,
    }


def ratio(found: dict[str, Any], one: str, other: str) -> float | None:
    """Tokens a second of one over those of another."""
    if not all(isinstance(found.get(name), dict) for name in (one, other)):
        return None
    return float(found[one]["tokens_s"] / found[other]["tokens_s"])


def model_results(
    shape: Shape, dtype: torch.dtype, device: torch.device, peak: float, slot: float, end: float
) -> dict[str, Any]:
    """Figures and ratios of one shape; of one that does not fit, why there are none."""
    weights = sum(p.numel() for p in shape.build(dtype, "meta").parameters())
    found: dict[str, Any] = {"weights": weights}
    gc.collect()  # of the model before it
    torch.cuda.empty_cache()
    answers._largest.clear()  # what fitted beside it
    needed = weights * dtype.itemsize * 1.2
    if device.type == "cuda" and (free := torch.cuda.mem_get_info()[0]) < needed:
        why = f"left out: needs {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free"
        return {**found, "figures": {step.__name__: why for step in STEPS_OF_WORK}}
    params = load_params(Path(f"profiles/{shape.profile}.yaml"))
    bench = Bench(shape.build(dtype, device), shape.branches, params, peak, slot)
    figures = measured(bench, end)
    return {
        **found,
        "figures": figures,
        "steered_vs_one_condition_at_a_time": ratio(figures, "answers", "plain generate"),
        "capture_vs_bare_forward": ratio(figures, "capture", "bare forward"),
    }


def lines(results: dict[str, Any], usd_per_hour: float) -> list[str]:
    """The results as text."""
    said = [f"{results['card']}, {results['dtype']}, peak {results['peak_tflops']:.4g} TFLOP/s "
            f"({results['peak_is']})"]  # fmt: skip
    for name, model in results["models"].items():
        said += ["", f"{name}: {model['weights'] / 1e9:.2f} billion random weights"]
        for step, f in model["figures"].items():
            told = f if isinstance(f, str) else (
                f"{f['tokens_s']:>12,.0f} tokens/s{100 * f['share']:>6.1f} % of peak"
                f"{f['memory_gb']:>7.1f} GB{f['batch']:>6} rows"
            )  # fmt: skip
            said.append(f"  {step:<15}{told}")
        for key in ("steered_vs_one_condition_at_a_time", "capture_vs_bare_forward"):
            if model.get(key) is not None:
                said.append(f"  {key.replace('_', ' ')}: {model[key]:.2f}")
        cost = model["profile_cost"]
        said.append(f"  profile {model['profile']}: " + (
            "hours not known, a step is left out" if cost["hours"] is None else
            f"{cost['hours']:.1f} hours at most, {cost['machine_usd']:.0f} USD of machine at "
            f"{usd_per_hour:g} an hour, {cost['judge_usd_at_most']:.0f} USD at most for a judge"
        ))  # fmt: skip
        if cost["hours_of_a_local_judge"] is not None:
            hours = cost["hours_of_a_local_judge"]
            said.append(f"  a judge of this size on the same card instead: {hours:.1f} hours more")
    return said


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes JSON."""
    parser = argparse.ArgumentParser(description="What a GPU does with models of 7 and 8 billion.")
    parser.add_argument("--usd-per-hour", type=float, default=2.5, help="price of the machine")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of all measurements")
    parser.add_argument("--miniature", action="store_true", help="tiny models, on a CPU")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    tiny = given.miniature
    if not tiny and not torch.cuda.is_available():
        sys.exit("error: no CUDA device is visible\n  try: --miniature, which needs none")
    device = setup_torch(Run(device="cpu" if tiny else "cuda", threads=torch.get_num_threads()))
    dtype = torch.float32 if tiny else torch.bfloat16
    card = "CPU, miniature models" if tiny else torch.cuda.get_device_name()
    peak = measured_peak(device, dtype, 256 if tiny else 8192)
    printed = next((v * 1e12 for name, v in PEAKS.items() if re.search(rf"\b{name}\b", card)), None)
    start, each = time.monotonic(), math.inf if tiny else 60 * given.minutes / len(SHAPES)
    slot = 0.05 if tiny else each / TIMED
    results: dict[str, Any] = {
        "card": card, "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__,
        "peak_tflops": (printed or peak) / 1e12, "measured_peak_tflops": peak / 1e12,
        "peak_is": "as printed by its maker" if printed else "measured in products of matrices",
        "usd_per_hour": given.usd_per_hour, "models": {},
    }  # fmt: skip
    for number, (name, shape) in enumerate(SHAPES.items(), start=1):
        shape = shape.small() if tiny else shape
        found = model_results(shape, dtype, device, printed or peak, slot, start + each * number)
        params = load_params(Path(f"profiles/{shape.profile}.yaml"))
        cost = extrapolated(params, found["figures"], given.usd_per_hour)
        results["models"][name] = {**found, "profile": shape.profile, "profile_cost": cost}
        print(f"{name} done after {time.monotonic() - start:.0f} s", file=sys.stderr)
    given.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines(results, given.usd_per_hour)))


if __name__ == "__main__":
    main()
