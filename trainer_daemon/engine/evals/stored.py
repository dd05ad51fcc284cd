"""A stored checkpoint, measured: the figures that its run had at that step, or would have had, without the run.

The arithmetic is the run's own where this device has it, and so the figures are: on the device that trained, to the bit.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from trainer_daemon.contract.errors import SpecError
from trainer_daemon.contract.events import CoreScored, CoreTaskScored, Evaluated
from trainer_daemon.contract.spec import EvalSpec, RunSpec
from trainer_daemon.engine.checkpoint.files import load_progress
from trainer_daemon.engine.data.prepare import find_meta, prepare
from trainer_daemon.engine.data.rows import open_rows
from trainer_daemon.engine.data.tokenizer import Tokenizer
from trainer_daemon.engine.evals.bpb import bits_per_byte, held_out_sums, token_losses
from trainer_daemon.engine.evals.core import in_one_figure, open_core, right_answers
from trainer_daemon.engine.inference.session import load_model, read_model
from trainer_daemon.engine.models.language_model import LanguageModel
from trainer_daemon.engine.models.loss import use_fused_kernel
from trainer_daemon.engine.native import NativeError
from trainer_daemon.engine.precision import COMPUTE_DTYPES, choose_precision
from trainer_daemon.engine.ranks import Ranks


@dataclass(frozen=True)
class Examinee:
    """A checkpoint's model, ready to be asked, and what its run was to be measured by."""

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    spec: RunSpec
    device: torch.device
    batch_rows: int
    """Rows read at once: as many as fitted its run."""


def open_examinee(checkpoint: Path, device: torch.device) -> Examinee:
    """Raises RunFailedError for a checkpoint that is damaged or foreign, NotFoundError for what is none."""
    stored = read_model(checkpoint)
    spec = RunSpec.model_validate_json((checkpoint / "spec.json").read_bytes())
    runtime = spec.runtime
    if (
        runtime.precision == "fp8" and device.type != "cuda"
    ):  # evaluated without fp8's rounding, as near as it gets
        runtime = runtime.model_copy(update={"precision": "bf16"})
    model = load_model(
        stored,
        device=device,
        dtype=COMPUTE_DTYPES[choose_precision(runtime, device)],
        document_start=stored.tokenizer.bos_id if spec.data.document_mask else None,
    ).eval()
    rows = load_progress(checkpoint).micro_batch_size or 1
    return Examinee(model, stored.tokenizer, stored.step, spec, device, rows)


def measure_held_out(examinee: Examinee, home: Path, tokens: int | None = None) -> Evaluated:
    """val_bpb over the rows that the run reads, or the first `tokens` of them.

    Raises SpecError where its text is gone, another, or not prepared on this machine.
    """
    began, spec = time.perf_counter(), examinee.spec
    if find_meta(spec.data, spec.tokenizer, home) is None:
        raise SpecError(
            f"the text of {spec.data.source} is not prepared on this machine; do it with: llmctl data prepare SOURCE"
        )
    prepared = prepare(spec.data, spec.tokenizer, home, lambda *_: None)
    if prepared.tokenizer.content_hash != examinee.tokenizer.content_hash:
        raise SpecError(
            f"the text at {spec.data.source} changed since this checkpoint: its tokenizer is another now"
        )
    if examinee.device.type == "cpu" and examinee.model.caps_logits:
        with suppress(NativeError):  # as its run did, or else to the eighth digit
            use_fused_kernel(home / "kernels")
    rows = open_rows(prepared.held_out, spec.model.sequence_len, spec.data.packing)
    count = max(1, min(len(rows), (tokens or spec.eval.tokens) // rows.sequence_len))
    sums = held_out_sums(
        partial(token_losses, examinee.model),
        rows,
        torch.from_numpy(examinee.tokenizer.token_byte_lengths()).to(examinee.device),
        numbers=range(count),
        batch_rows=examinee.batch_rows,
        rank=0,
        world_size=1,
    )
    found = bits_per_byte(*sums)
    seconds = time.perf_counter() - began
    return Evaluated(examinee.step, found.val_bpb, found.loss_nats, found.tokens, seconds, rows=count)


def measure_core(
    examinee: Examinee, settings: EvalSpec, home: Path, tell: Callable[[CoreTaskScored], None]
) -> CoreScored:
    """CORE's tasks, `tell` called with each as it is done. Raises SpecError where their examples are not to be had."""
    began, centred = time.perf_counter(), {}
    alone = Ranks(rank=0, world_size=1, device=examinee.device)
    for task, examples in open_core(settings, home).items():
        task_began = time.perf_counter()
        right = right_answers(examinee.model, examinee.tokenizer, alone, task, examples)
        accuracy = right / len(examples)
        centred[task] = task.centred(accuracy)
        seconds = time.perf_counter() - task_began
        tell(CoreTaskScored(examinee.step, task.name, accuracy, centred[task], len(examples), seconds))
    return in_one_figure(examinee.step, centred, time.perf_counter() - began)
