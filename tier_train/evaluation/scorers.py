"""Files and a rule of scoring → a scorer, for `evaluate` and for the rows of `reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.run import covered
from tier_infer.evaluation.scores import Scorer
from tier_infer.label_sets import load_label_set
from tier_train.checkpoint import Checkpoint, load_checkpoint, read_archive
from tier_train.evaluation.head import HeadScorer
from tier_train.evaluation.margin import MarginScorer
from tier_train.evaluation.prompt_pool import POOLS, PROMPTS, SEED, PromptPoolScorer
from tier_train.evaluation.softmax import SoftmaxScorer
from tier_train.supervised_cnn import FORMAT as SUPERVISED
from tier_train.supervised_cnn import load_supervised

SCORINGS = ("margin", "softmax", *POOLS)


@dataclass(frozen=True)
class Asked:
    """How checkpoints are to score; None: as it is usual for them."""

    scoring: str | None = None  # margin
    queries: str | None = None  # the set of the first checkpoint's recipe
    labels: list[str] | None = None  # all that the dataset knows
    device: str = "cpu"
    prompt_seed: int | None = None  # SEED
    prompts_per_label: int | None = None  # PROMPTS


def open_scorer(paths: Sequence[Path], cohort: Cohort, asked: Asked) -> Scorer:
    """UsageError for what does not go together, IntegrityError for a file that is not ours."""
    return scorer_and_set(paths, cohort, asked)[0]


def scorer_and_set(paths: Sequence[Path], cohort: Cohort, asked: Asked) -> tuple[Scorer, list[str]]:
    """The same, with all labels that the set or the head has."""
    scoring = asked.scoring or "margin"
    drawing = asked.prompt_seed is not None or asked.prompts_per_label is not None
    if drawing and scoring not in POOLS:
        raise UsageError(
            f"--prompt-seed and --prompts-per-label draw prompts, --scoring {scoring} asks all of "
            f"them; they go with {' and '.join(POOLS)}"
        )
    try:
        first = load_checkpoint(paths[0])
    except IntegrityError:
        table, _ = read_archive(paths[0])
        if not isinstance(table, dict) or table.get("format") != SUPERVISED:
            raise
        return _head(paths, cohort, asked)
    loaded = [first, *(load_checkpoint(path) for path in paths[1:])]
    names = [str(path) for path in paths]
    source = asked.queries or _usual_set(loaded, names)
    labels = load_label_set(source, pooled=scoring == "margin")
    of_set = [label.id for label in labels.labels]
    wanted = asked.labels or covered(cohort, of_set)
    scorer: MarginScorer | SoftmaxScorer | PromptPoolScorer
    if scoring == "margin":
        scorer = MarginScorer(loaded, names, labels, wanted, asked.device)
    elif scoring == "softmax":
        scorer = SoftmaxScorer(loaded, names, labels, wanted, asked.device)
    else:
        seed = SEED if asked.prompt_seed is None else asked.prompt_seed
        count = PROMPTS if asked.prompts_per_label is None else asked.prompts_per_label
        scorer = PromptPoolScorer(loaded, names, labels, wanted, asked.device, scoring, count, seed)
    recipes = [checkpoint.recipe for checkpoint in loaded]
    scorer.identity["lambdas"] = [[r.lambda_patch, r.lambda_token] for r in recipes]
    return scorer, of_set


def _head(paths: Sequence[Path], cohort: Cohort, asked: Asked) -> tuple[Scorer, list[str]]:
    trained = load_supervised(paths[0])
    if len(paths) > 1:
        raise UsageError(f"{paths[0]} is a supervised network: evaluate it alone")
    if asked.scoring or asked.queries:
        raise UsageError(
            f"{paths[0]} is a supervised network, scored by its head: it has no text tower for "
            "--scoring or --queries"
        )
    of_head = list(trained.labels)
    return HeadScorer(trained, asked.labels or covered(cohort, of_head), asked.device), of_head


def _usual_set(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> str:
    first = checkpoints[0].recipe.prompts
    for name, other in zip(names[1:], checkpoints[1:], strict=True):
        if other.recipe.prompts != first:
            raise UsageError(
                f"{names[0]} asks set {first}, {name} asks {other.recipe.prompts}; name one with "
                "--queries"
            )
    return first
