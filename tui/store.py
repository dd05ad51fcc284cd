"""What one run has reported, as columns (100k steps of 20 metrics are 16 MB). Rows of one kind of event share their x
columns; a metric absent from a row is NaN, which a chart draws as a gap. Who exports keeps all rows; who watches for days keeps
the newest whole and thins older ones as `contract.history` thins what a cockpit opens, ever more of them, so that memory does not
follow the run's length. A rollback cuts the rows after a step out into a ghost, so the abandoned branch stays visible. Numbers only: no
drawing, no run folder, no threads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer_daemon.contract.history import STEPS_PER_GROUP

FloatArray: TypeAlias = NDArray[np.float64]
StoredAxis = Literal["step", "seconds", "tokens"]
STORED_AXES: tuple[StoredAxis, ...] = ("step", "seconds", "tokens")
XAxis = Literal["step", "seconds", "tokens", "flops"]
X_AXES: tuple[XAxis, ...] = (*STORED_AXES, "flops")
"""Optimizer step; wall seconds since the run began; training tokens seen; training FLOPs, which are tokens times a constant of
the run. Each never decreases within a branch."""

EMA_BLOCK = 64
THINNING_SHARE = 1 / 8
"""Rows are thinned so many of the whole ones at a time: it copies all columns."""
THINNED_SHARE = 1 / 2
"""Of the whole ones: as many rows as are left of all older ones, at most."""


class Column:
    """float64 values in a buffer that doubles, so that appending costs the same however long the history is."""

    __slots__ = ("_buffer", "_length")

    def __init__(self, values: ArrayLike = ()) -> None:
        self._buffer: FloatArray = np.array(values, dtype=np.float64)
        self._length = len(self._buffer)

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> FloatArray:
        """A view, not a copy: right until the column is next truncated."""
        return self._buffer[: self._length]

    @property
    def reserved_bytes(self) -> int:
        return self._buffer.nbytes

    def append(self, value: float) -> None:
        self._reserve(self._length + 1)
        self._buffer[self._length] = value
        self._length += 1

    def extend(self, values: ArrayLike) -> None:
        added = np.asarray(values, dtype=np.float64)
        self._reserve(self._length + len(added))
        self._buffer[self._length : self._length + len(added)] = added
        self._length += len(added)

    def truncate(self, length: int) -> None:
        """Into a buffer of its own: what is a longer view of one and the same buffer has only grown."""
        if length < self._length:
            self._buffer, self._length = self._buffer[:length].copy(), length

    def keep(self, rows: NDArray[np.intp], first: int, end: int) -> None:
        """Of the rows from `first` to before `end` only `rows`, in a new buffer: views of the old one stay as they were."""
        kept = np.concatenate([self._buffer[:first], self._buffer[rows], self._buffer[end : self._length]])
        self._buffer = np.empty(len(self._buffer))
        self._length = len(kept)
        self._buffer[: self._length] = kept

    def _reserve(self, length: int) -> None:
        if length > len(self._buffer):
            grown = np.empty(max(length, 2 * len(self._buffer), 64))
            grown[: self._length] = self.values
            self._buffer = grown


class Ema:
    """Exponential mean of the finite values so far, debiased: the first output equals the first value.

    s = decay * s + (1 - decay) * value, and the output is s / (1 - decay ** count). A value that is not finite gives NaN and
    leaves the mean as it was.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay {decay} must lie between 0 and 1; leave smoothing out for 0")
        self.decay = decay
        self._sum = 0.0
        self._count = 0

    def extend(self, values: FloatArray) -> FloatArray:
        """The smoothed values of the next stretch of the series, in blocks: a Python loop over a million takes half a second."""
        smoothed = np.full(len(values), np.nan)
        is_finite = np.isfinite(values)
        finite = values[is_finite]
        if not len(finite):
            return smoothed
        powers, kernel = _ema_kernel(self.decay)
        blocks = np.zeros((-(-len(finite) // EMA_BLOCK), EMA_BLOCK))
        blocks.flat[: len(finite)] = finite
        sums = blocks @ kernel
        for row in sums:
            row += powers * self._sum
            self._sum = row[-1]
        sums = sums.ravel()[: len(finite)]
        self._sum = float(sums[-1])
        counts = np.arange(self._count + 1, self._count + len(finite) + 1)
        self._count += len(finite)
        smoothed[is_finite] = sums / -np.expm1(counts * math.log(self.decay))
        return smoothed


@lru_cache(maxsize=16)
def _ema_kernel(decay: float) -> tuple[FloatArray, FloatArray]:
    """decay^1..decay^B, what is left of the carried sum; and the (B, B) weights of each value in each later sum of its block."""
    powers = decay ** np.arange(1.0, EMA_BLOCK + 1)
    lag = np.arange(EMA_BLOCK)[None, :] - np.arange(EMA_BLOCK)[:, None]
    kernel = np.where(lag >= 0, (1 - decay) * decay ** np.maximum(lag, 0), 0.0)
    return powers, kernel


@dataclass(frozen=True, eq=False)
class Curve:
    """One metric over one x, as views into the store: draw now, do not keep across a rollback."""

    x: FloatArray
    y: FloatArray
    """As reported; NaN where the row had no finite value."""
    smooth: FloatArray | None
    """The debiased exponential mean of `y`; None when no smoothing was asked for."""


class Stream:
    """Rows of one kind of event: three x columns and one column a metric, all of one length, in step order."""

    def __init__(self) -> None:
        self._x: dict[StoredAxis, Column] = {axis: Column() for axis in STORED_AXES}
        self._y: dict[str, Column] = {}
        self._smooth: dict[str, tuple[Ema, Column]] = {}
        self._thinned = 0
        """Rows, the oldest ones, that are what is left of more."""
        self._group_rows = STEPS_PER_GROUP
        """Of so many two are kept."""

    def __len__(self) -> int:
        return len(self._x["step"])

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self._y)

    @property
    def reserved_bytes(self) -> int:
        """Of all columns, room for what is to come included."""
        smooth = (column for _, column in self._smooth.values())
        return sum(column.reserved_bytes for column in (*self._x.values(), *self._y.values(), *smooth))

    @property
    def last_step(self) -> float:
        """The newest row's step; -inf before the first row."""
        return float(self._x["step"].values[-1]) if len(self) else -math.inf

    def append(self, x: Mapping[StoredAxis, float], y: Mapping[str, float | None]) -> None:
        """Add one row. A metric seen for the first time is NaN in every earlier row."""
        self._admit(y)
        for axis, column in self._x.items():
            column.append(x[axis])
        for metric, column in self._y.items():
            value = y.get(metric)
            # Infinities too become gaps: one would flatten every other point of its chart.
            column.append(value if value is not None and math.isfinite(value) else math.nan)

    def extend(self, x: Mapping[StoredAxis, ArrayLike], y: Mapping[str, ArrayLike]) -> None:
        """Add many rows: arrays of one length, already in step order."""
        self._admit(y)
        rows = len(np.asarray(x["step"]))
        for axis, column in self._x.items():
            column.extend(x[axis])
        for metric, column in self._y.items():
            values = np.array(y[metric], dtype=np.float64) if metric in y else np.full(rows, np.nan)
            values[~np.isfinite(values)] = np.nan
            column.extend(values)

    def cut_after(self, step: float) -> Stream | None:
        """Take the rows after `step` out, and give them back as a stream of their own; None if there are none."""
        kept = int(np.searchsorted(self._x["step"].values, step, side="right"))
        if kept == len(self):
            return None
        cut = Stream()
        cut._x = {axis: Column(column.values[kept:]) for axis, column in self._x.items()}
        cut._y = {metric: Column(column.values[kept:]) for metric, column in self._y.items()}
        for column in (*self._x.values(), *self._y.values()):
            column.truncate(kept)
        self._smooth.clear()
        self._thinned = min(self._thinned, kept)
        return cut

    def thin(self, whole_rows: int) -> None:
        """Once there are a good deal more than `whole_rows` whole ones, keep two of each 64 of the oldest: the last one, and the
        one highest in the first metric. What is left of them has a bound, too: when it is reached, half of it goes, and from then
        on two are kept of twice as many. Smoothed values stay what they were."""
        groups = (len(self) - self._thinned - whole_rows) // self._group_rows
        if groups * self._group_rows < max(whole_rows * THINNING_SHARE, 1):
            return
        for metric, (ema, _) in self._smooth.items():
            self._smoothed(metric, self._y[metric].values, ema.decay)
        self._thinned += self._keep_course(self._thinned, groups, self._group_rows)
        if self._thinned > whole_rows * THINNED_SHARE:
            pairs = self._thinned // 4
            self._thinned += self._keep_course(0, pairs, 4) - 4 * pairs
            self._group_rows *= 2

    def _keep_course(self, first: int, groups: int, rows_each: int) -> int:
        """Keep two rows of each of so many groups from row `first` on; how many are left of them."""
        end = first + groups * rows_each
        values = next(iter(self._y.values())).values[first:end].reshape(groups, rows_each)
        highest = np.where(np.isfinite(values), values, -np.inf).argmax(axis=1)
        starts = first + rows_each * np.arange(groups)
        rows = np.unique(np.concatenate([starts + highest, starts + rows_each - 1]))
        smooth = (column for _, column in self._smooth.values())
        for column in (*self._x.values(), *self._y.values(), *smooth):
            column.keep(rows, first, end)
        return len(rows)

    def x(self, axis: StoredAxis) -> FloatArray:
        return self._x[axis].values

    def curve(self, metric: str, axis: StoredAxis, decay: float) -> Curve:
        """`metric` over `axis`, smoothed with `decay` (0 for none). Costs only the rows added since it was last asked for."""
        y = self._y[metric].values
        return Curve(self._x[axis].values, y, self._smoothed(metric, y, decay) if decay else None)

    def _smoothed(self, metric: str, y: FloatArray, decay: float) -> FloatArray:
        if metric not in self._smooth or self._smooth[metric][0].decay != decay:
            self._smooth[metric] = (Ema(decay), Column())
        ema, column = self._smooth[metric]
        if len(column) < len(y):
            column.extend(ema.extend(y[len(column) :]))
        return column.values

    def _admit(self, metrics: Iterable[str]) -> None:
        for metric in metrics:
            if metric not in self._y:
                self._y[metric] = Column(np.full(len(self), np.nan))


class RunHistory:
    """All streams of one run, by kind of event, and the branches that rollbacks have cut off."""

    def __init__(self, whole_rows: int | None = None) -> None:
        """`whole_rows`: how many of the newest rows of each kind are kept one and all; None for every row there is."""
        self._whole_rows = whole_rows
        self._streams: dict[str, Stream] = {}
        self._stream_of: dict[str, Stream] = {}
        self._ghosts: list[Stream] = []
        self.flops_per_token = 0.0
        """What the axis of FLOPs multiplies tokens by; 0 until the run's plan is known, which comes before its first step."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric seen, in order of first appearance."""
        return tuple(self._stream_of)

    def append(
        self, kind: str, *, step: float, seconds: float, tokens: float, values: Mapping[str, float | None]
    ) -> None:
        """Add one row of `kind`. A step that goes back says that the run was rolled back: later rows become a ghost."""
        stream = self._stream(kind, values)
        if step < stream.last_step:
            self._cut(stream, math.nextafter(step, -math.inf))
        stream.append({"step": step, "seconds": seconds, "tokens": tokens}, values)
        self._thin(stream)

    def extend(
        self,
        kind: str,
        *,
        step: ArrayLike,
        seconds: ArrayLike,
        tokens: ArrayLike,
        values: Mapping[str, ArrayLike],
    ) -> None:
        """Add many rows of `kind` at once, in step order: what a snapshot brings."""
        stream = self._stream(kind, values)
        stream.extend({"step": step, "seconds": seconds, "tokens": tokens}, values)
        self._thin(stream)

    def truncate(self, step: float) -> None:
        """Roll back: the rows after `step`, of every kind, become ghosts."""
        for stream in self._streams.values():
            self._cut(stream, step)

    def curve(self, metric: str, axis: XAxis = "step", decay: float = 0.0) -> Curve | None:
        """The living branch of `metric`; None for a metric never seen."""
        stream = self._stream_of.get(metric)
        return self._curve(stream, metric, axis, decay) if stream else None

    def ghosts(self, metric: str, axis: XAxis = "step", decay: float = 0.0) -> list[Curve]:
        """The cut branches of `metric`, oldest first."""
        return [self._curve(ghost, metric, axis, decay) for ghost in self._ghosts if metric in ghost.metrics]

    def streams(self) -> Iterable[Stream]:
        """The living branch of every kind of event, in order of first appearance."""
        return self._streams.values()

    @property
    def reserved_bytes(self) -> int:
        """Of the columns of all branches, cut ones too."""
        return sum(stream.reserved_bytes for stream in (*self._streams.values(), *self._ghosts))

    def _curve(self, stream: Stream, metric: str, axis: XAxis, decay: float) -> Curve:
        if axis != "flops":
            return stream.curve(metric, axis, decay)
        over_tokens = stream.curve(metric, "tokens", decay)
        return replace(over_tokens, x=over_tokens.x * self.flops_per_token)

    def _stream(self, kind: str, metrics: Iterable[str]) -> Stream:
        stream = self._streams.setdefault(kind, Stream())
        for metric in metrics:
            if self._stream_of.setdefault(metric, stream) is not stream:
                raise ValueError(
                    f"metric {metric!r} of {kind!r} is already reported by another kind of event"
                )
        return stream

    def _thin(self, stream: Stream) -> None:
        if self._whole_rows is not None:
            stream.thin(self._whole_rows)

    def _cut(self, stream: Stream, step: float) -> None:
        if (ghost := stream.cut_after(step)) is not None:
            self._ghosts.append(ghost)
