"""Are the replicas of all ranks the same to the bit? Under DDP they must be; where they are not, a device computes wrongly.

Asked by the spec every so many steps, or by someone who wants to know now. All ranks take part in each function here.
"""

import json
import time
from collections import Counter
from hashlib import sha256

from trainer_daemon.contract.alerts import alert
from trainer_daemon.contract.events import Finished, ReplicasCompared
from trainer_daemon.engine.job import Job


def replica_check_is_due(job: Job) -> bool:
    """As `health.check_replicas_every` asks; never before the first step."""
    every, step = job.spec.health.check_replicas_every, job.progress.step
    return every is not None and job.ranks.world_size > 1 and step > 0 and step % every == 0


def check_replicas(job: Job) -> tuple[ReplicasCompared, Finished | None]:
    """Compare the parameters of all ranks bit for bit and say what came of it; and the run's last word when they differ.

    Nothing is saved then: nobody can say which replica is right.
    """
    started = time.perf_counter()
    own = job.parameter_checksums()
    by_rank = job.ranks.exchange(*own.values())
    difference = describe_difference(list(own), by_rank)
    step = job.progress.step
    compared = ReplicasCompared(
        step,
        world_size=job.ranks.world_size,
        parameters=len(own),
        difference=difference,
        checksum=checksum_of(own) if difference is None else None,
        seconds=time.perf_counter() - started,
    )
    job.emit(compared)
    if difference is None:
        job.replicas_equal_step = step
        return compared, None
    known = job.replicas_equal_step
    last = f"they were last found equal at step {known}" if known is not None else "it was the first check"
    job.emit(alert("replicas_differ", step, f"{difference}; {last}"))
    message = f"replicas came apart: {difference}; {last}; nothing was saved"
    return compared, Finished("failed", step, message, cause="sdc")


def checksum_of(checksums: dict[str, int]) -> str:
    """16 hex digits for a whole model."""
    return sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()[:16]


def describe_difference(names: list[str], by_rank: list[list[float]]) -> str | None:
    """Which ranks differ in which parameters, in words; None when none does."""
    columns = list(zip(*by_rank, strict=True))
    different = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    if not different:
        return None
    first = columns[different[0]]
    usual, count = Counter(first).most_common(1)[0]
    is_majority = 2 * count > len(first)
    ranks = [str(rank) for rank, value in enumerate(first) if not is_majority or value != usual]
    where = f"{len(different)} of {len(names)} parameters, the first is {names[different[0]]}"
    if is_majority:
        return f"rank {', '.join(ranks)} differs from the others in {where}"
    return f"ranks {', '.join(ranks)} differ in {where}"
