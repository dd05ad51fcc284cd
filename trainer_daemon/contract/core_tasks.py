"""The 22 tasks of CORE, the benchmark aggregate of DCLM (arXiv 2406.11794), as their names, files and rules.

The examples are nobody's to ship here: a folder of them, laid out as DCLM's evaluation bundle has them, is the user's.
"""

from dataclasses import dataclass
from typing import Literal, cast

TaskKind = Literal["multiple_choice", "schema", "language_modeling"]
"""multiple_choice: one query, several endings. schema: several beginnings, one ending. language_modeling: one text whose
ending has to be the likeliest at every token."""

EvalTask = Literal["bpb", "core", "hellaswag"]
"""What can be asked of a model on request: held-out loss, all of CORE, or its best-known task alone."""
HELLASWAG = "hellaswag_zeroshot"

MOST_SHOTS = 10
"""A task needs one example more than it shows."""


@dataclass(frozen=True, slots=True)
class CoreTask:
    name: str
    file: str
    """Below the folder of the examples; one JSON object a line."""
    kind: TaskKind
    shots: int
    """Solved examples shown before the one asked."""
    delimiter: str
    """Between what is given and what is to be found."""
    baseline: float
    """Share that guessing gets right."""

    def centred(self, accuracy: float) -> float:
        """0 for guessing, 1 for all right."""
        return (accuracy - self.baseline) / (1 - self.baseline)


_DELIMITERS = {"space": " ", "answer": "\nAnswer: "}

# name, file, kind, shots, delimiter, per cent that guessing gets right
_TABLE = """
hellaswag_zeroshot                language_understanding/hellaswag                         multiple_choice    0   space   25
jeopardy                          world_knowledge/jeopardy_all                             language_modeling  10  answer  0
bigbench_qa_wikidata              world_knowledge/bigbench_qa_wikidata                     language_modeling  10  space   0
arc_easy                          world_knowledge/arc_easy                                 multiple_choice    10  answer  25
arc_challenge                     world_knowledge/arc_challenge                            multiple_choice    10  answer  25
copa                              commonsense_reasoning/copa                               multiple_choice    0   space   50
commonsense_qa                    commonsense_reasoning/commonsense_qa                     multiple_choice    10  space   20
piqa                              commonsense_reasoning/piqa                               multiple_choice    10  answer  50
openbook_qa                       commonsense_reasoning/openbook_qa                        multiple_choice    0   space   25
lambada_openai                    language_understanding/lambada_openai                    language_modeling  0   space   0
hellaswag                         language_understanding/hellaswag                         multiple_choice    10  space   25
winograd                          language_understanding/winograd_wsc                      schema             0   space   50
winogrande                        language_understanding/winogrande                        schema             0   space   50
bigbench_dyck_languages           symbolic_problem_solving/bigbench_dyck_languages         language_modeling  10  space   0
agi_eval_lsat_ar                  symbolic_problem_solving/agi_eval_lsat_ar                multiple_choice    3   space   20
bigbench_cs_algorithms            symbolic_problem_solving/bigbench_cs_algorithms          language_modeling  10  space   0
bigbench_operators                symbolic_problem_solving/bigbench_operators              language_modeling  10  space   0
bigbench_repeat_copy_logic        symbolic_problem_solving/bigbench_repeat_copy_logic      language_modeling  10  space   0
squad                             reading_comprehension/squad                              language_modeling  10  space   0
coqa                              reading_comprehension/coqa                               language_modeling  0   space   0
boolq                             reading_comprehension/boolq                              multiple_choice    10  answer  62
bigbench_language_identification  language_understanding/bigbench_language_identification  multiple_choice    10  space   9.1
"""


def _parse(row: str) -> CoreTask:
    name, file, kind, shots, delimiter, percent = row.split()
    return CoreTask(
        name,
        f"{file}.jsonl",
        cast("TaskKind", kind),  # the table's own word
        int(shots),
        _DELIMITERS[delimiter],
        float(percent) / 100,
    )


CORE_TASKS = tuple(map(_parse, _TABLE.strip().splitlines()))
"""In the order of DCLM's list."""
