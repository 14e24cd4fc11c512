"""A model behind an OpenAI-compatible endpoint on loopback, for the client to judge through.

It serves what a judge asks for and no more: chat completions, seeded sampling, and the most
likely alternatives of the first token. One request at a time, so replies do not depend on company.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from em_geometry.models.chat import end_of_turn, render


@contextmanager
def served(model: Any, tokenizer: Any) -> Iterator[str]:
    """Base URL under which the model answers until the context ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                if self.path != "/v1/chat/completions":
                    raise LookupError(f"no {self.path}")
                with lock:
                    status, reply = 200, complete(model, tokenizer, json.loads(body))
            except (ValueError, KeyError, TypeError, LookupError) as error:
                status = 404 if isinstance(error, LookupError) else 400
                reply = {"error": {"message": f"{type(error).__name__}: {error}"}}
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are the client's to report."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def complete(model: Any, tokenizer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The chat completion that a request's body asks for."""
    import torch

    prompt = render(tokenizer, request["messages"][-1]["content"], "").ids
    ends = end_of_turn(tokenizer, model.config)
    temperature = float(request.get("temperature", 1.0))
    random = torch.Generator().manual_seed(int(request.get("seed", 0)))
    inputs, cache = torch.tensor([prompt], device=model.device), None
    chosen: list[int] = []
    first: list[dict[str, Any]] = []
    finish = "length"
    with torch.no_grad():
        while len(chosen) < int(request.get("max_tokens", 16)):
            out = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logs = out.logits[0, -1].float().log_softmax(-1).cpu()
            if not chosen and request.get("logprobs"):
                best = logs.topk(int(request.get("top_logprobs", 1)))
                first = [
                    {"token": tokenizer.decode([token]), "logprob": value}
                    for token, value in zip(
                        best.indices.tolist(), best.values.tolist(), strict=True
                    )
                ]
            if temperature > 0:
                weights = (logs / temperature).softmax(-1)
                token = int(torch.multinomial(weights, 1, generator=random))
            else:
                token = int(logs.argmax())
            if token in ends:
                finish = "stop"
                break
            chosen.append(token)
            inputs, cache = torch.tensor([[token]], device=model.device), out.past_key_values
    message = {"role": "assistant", "content": tokenizer.decode(chosen)}
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(chosen)}
    logprobs = {"content": [first[0] | {"top_logprobs": first}]} if first else None
    choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
    return {
        "object": "chat.completion",
        "model": request.get("model"),
        "choices": [choice],
        "usage": usage | {"total_tokens": sum(usage.values())},
    }
