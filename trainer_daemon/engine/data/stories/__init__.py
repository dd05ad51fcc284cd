"""The embedded default corpus: small stories written by a grammar, so training starts with no download and a known floor.

`story(seed, index, level)` is a pure function; nothing is stored and any story can be had at once. `generator.py` is the
machinery, `grammar.py` the template language, `lexicon.py` the words, `plots.py` the stories, `probes.py` the questions.
"""

from trainer_daemon.engine.data.stories.generator import (
    GENERATOR_VERSION,
    HELD_OUT_EVERY,
    Story,
    floor_bits_per_byte,
    held_out_index,
    is_held_out,
    story,
    train_index,
)
from trainer_daemon.engine.data.stories.lexicon import LEVELS
from trainer_daemon.engine.data.stories.probes import PROBE_KINDS, Probe, ProbeKind, probes

__all__ = [
    "GENERATOR_VERSION",
    "HELD_OUT_EVERY",
    "LEVELS",
    "PROBE_KINDS",
    "Probe",
    "ProbeKind",
    "Story",
    "floor_bits_per_byte",
    "held_out_index",
    "is_held_out",
    "probes",
    "story",
    "train_index",
]
