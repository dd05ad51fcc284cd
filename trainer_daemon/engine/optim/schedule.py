"""What changes over a run, as pure functions of the step: nothing here is state, so a resumed run needs none of it.

Steps count from 0; the multipliers are those of the update that step makes.
"""

from math import cos, pi

from trainer_daemon.contract.spec import AdamWSpec, MuonAndAdamW, OptimSpec, ScheduleSpec


def learning_rate_scale(step: int, total_steps: int, schedule: ScheduleSpec) -> float:
    """Multiplier of every learning rate: linear warm-up to 1, constant, warm-down to `final_lr_frac` along a line or half a
    cosine, all of it times `learning_rate_factor`. With `restart_every`, after the warm-up, waves of half a cosine each
    (SGDR, arXiv 1608.03983).

    A run shorter than its warm-up never leaves it.
    """
    if step < schedule.warmup_steps:
        return schedule.learning_rate_factor * (step + 1) / schedule.warmup_steps
    if schedule.restart_every is not None:
        remaining = 1 - (step - schedule.warmup_steps) % schedule.restart_every / schedule.restart_every
    else:
        remaining = _warmdown_remaining(step, total_steps, schedule)
    if schedule.warmdown == "cosine" or schedule.restart_every is not None:
        remaining = 0.5 * (1 - cos(pi * remaining))
    return schedule.learning_rate_factor * (remaining + schedule.final_lr_frac * (1 - remaining))


def muon_momentum(
    step: int, total_steps: int, schedule: ScheduleSpec, optim: OptimSpec | AdamWSpec | MuonAndAdamW
) -> float:
    """Muon's momentum: a linear warm-up of its own to the peak, then constant, falling to its end with the warm-down; of
    family moe constant, of one without Muon 0.

    Its warm-up wins over the warm-down, so with 400 steps of it a run under about 1143 steps sees it drop at once.
    """
    if not isinstance(optim, OptimSpec):
        return optim.muon.momentum if isinstance(optim, MuonAndAdamW) else 0.0
    start, peak, end = optim.muon_momentum_start, optim.muon_momentum, optim.muon_momentum_end
    if step < optim.muon_momentum_warmup_steps:
        return start + (peak - start) * step / optim.muon_momentum_warmup_steps
    return end + (peak - end) * _warmdown_remaining(step, total_steps, schedule)


def weight_decay_scale(step: int, total_steps: int, schedule: ScheduleSpec) -> float:
    """Multiplier of Muon's weight decay: half a cosine, or a line, from 1 to 0."""
    if schedule.weight_decay == "linear":
        return 1 - step / total_steps
    return 0.5 * (1 + cos(pi * step / total_steps))


def _warmdown_remaining(step: int, total_steps: int, schedule: ScheduleSpec) -> float:
    """1 until the warm-down begins, then the share of it that is still to come."""
    if schedule.restart_every is not None:
        return 1.0
    warmdown_steps = round(schedule.warmdown_ratio * total_steps)
    if step <= total_steps - warmdown_steps:
        return 1.0
    return (total_steps - step) / warmdown_steps
