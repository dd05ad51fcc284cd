"""How a mixture's experts are used, told now and then: a router that has come to prefer a few of them wastes the others, and
no loss curve says so. The model adds up on its device; only what is told waits for it and is exchanged."""

from math import isfinite

from torch import Tensor

from trainer_daemon.contract.events import ExpertsUsed
from trainer_daemon.engine.job import Job

EVERY_STEPS = 10
DIGITS = 4
"""Of what is told of a layer: finer than any eye, and a quarter of the journal's bytes."""


def tell(job: Job) -> None:
    """Tell of the steps since this was last told, after the first step, every ten, and the last. All ranks."""
    step = job.progress.step
    if step != 1 and step % EVERY_STEPS and step != job.plan.total_steps:
        return
    use = job.model.take_expert_use()
    if use is None:
        return
    sums = job.ranks.sum(*use.flatten().tolist())
    if all(map(isfinite, sums)):  # where they are not, the step's own event says what is wrong
        total = use.new_tensor(sums).view_as(use)
        job.emit(experts_used(step, total, batches_per_step=job.ranks.world_size * job.plan.grad_accum_steps))


def experts_used(step: int, total: Tensor, *, batches_per_step: int) -> ExpertsUsed:
    """The event, from sums over all batches as `LanguageModel.take_expert_use` gives them, (L, E + 3)."""
    batches = total[:, -1:]
    means = total / batches
    shares, (balance, entropy) = means[:, :-3], means[:, -3:-1].unbind(1)
    return ExpertsUsed(
        step=step,
        steps=round(float(batches[0]) / batches_per_step),
        balance_loss=float(balance.mean()),
        router_entropy_nats=float(entropy.mean()),
        busiest_share=float(shares.max()),
        idlest_share=float(shares.min()),
        shares=[[round(share, DIGITS) for share in layer] for layer in shares.tolist()],
        entropies=[round(value, DIGITS) for value in entropy.tolist()],
    )
