"""A stored checkpoint, ready to write: verified, loaded, with its own tokenizer. Needs nothing but its folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from trainer_daemon.contract.errors import RunFailedError
from trainer_daemon.contract.scaling import model_shape
from trainer_daemon.contract.spec import RunSpec
from trainer_daemon.engine.checkpoint.files import load_tensors
from trainer_daemon.engine.checkpoint.store import verify_checkpoint
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.inference.generate import TextStream, generate
from trainer_daemon.engine.models.gpt import GPT


@dataclass(frozen=True)
class Session:
    """A model and its tokenizer."""

    model: GPT
    tokenizer: Tokenizer

    def stream(
        self, prompt: str, max_tokens: int, temperature: float, top_k: int | None, seed: int
    ) -> Iterator[tuple[str, int, bool, Literal["length", "end"] | None]]:
        """(text, tokens so far, done, finish reason) for each token; the last one is done. The model stops at a document's end."""
        text = TextStream(self.tokenizer.decode_bytes)
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(prompt)]
        count = 0
        stop_ids = {self.tokenizer.bos_id}
        for token in generate(
            self.model,
            ids,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            stop_ids=stop_ids,
        ):
            count += 1
            yield text.push(token), count, False, None
        yield text.finish(), count, True, "end" if count < max_tokens else "length"


def load_session(checkpoint: Path) -> Session:
    """Load a checkpoint onto the CPU. Raises RunFailedError when a file is damaged, NotFoundError when it is none."""
    bad = [check.path for check in verify_checkpoint(checkpoint) if not check.ok]
    if bad:
        raise RunFailedError(
            f"{checkpoint.name} is damaged ({', '.join(bad)}); choose another: llmctl checkpoints RUN"
        )
    spec = RunSpec.model_validate_json((checkpoint / "spec.json").read_bytes())
    tokenizer = Tokenizer.load(checkpoint / "tokenizer.json")
    model = GPT(model_shape(spec.model, tokenizer.vocab_size), compute_dtype=torch.float32)
    model.load_state_dict(load_tensors(checkpoint, "model", torch.device("cpu")))
    return Session(model.eval(), tokenizer)
