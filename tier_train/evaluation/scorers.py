"""Files and a rule of scoring → a scorer, for `evaluate` and for the rows of `reproduce`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tier_infer.errors import IntegrityError, UsageError
from tier_infer.evaluation.cohort import Cohort
from tier_infer.evaluation.run import covered
from tier_infer.evaluation.scores import Scorer
from tier_infer.files import sha256_of
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
    wanted = asked.labels or covered(cohort, [label.id for label in labels.labels])
    if scoring == "margin":
        return MarginScorer(loaded, names, labels, wanted, asked.device)
    if scoring == "softmax":
        return SoftmaxScorer(loaded, names, labels, wanted, asked.device)
    seed = SEED if asked.prompt_seed is None else asked.prompt_seed
    count = PROMPTS if asked.prompts_per_label is None else asked.prompts_per_label
    return PromptPoolScorer(loaded, names, labels, wanted, asked.device, scoring, count, seed)


def _head(paths: Sequence[Path], cohort: Cohort, asked: Asked) -> Scorer:
    trained = load_supervised(paths[0])
    if len(paths) > 1:
        raise UsageError(f"{paths[0]} is a supervised network: evaluate it alone")
    if asked.scoring or asked.queries:
        raise UsageError(
            f"{paths[0]} is a supervised network, scored by its head: it has no text tower for "
            "--scoring or --queries"
        )
    return HeadScorer(trained, asked.labels or covered(cohort, list(trained.labels)), asked.device)


def _usual_set(checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> str:
    first = checkpoints[0].recipe.prompts
    for name, other in zip(names[1:], checkpoints[1:], strict=True):
        if other.recipe.prompts != first:
            raise UsageError(
                f"{names[0]} asks set {first}, {name} asks {other.recipe.prompts}; name one with "
                "--queries"
            )
    return first


def cautions(scorer: Scorer, cohort: Cohort) -> list[str]:
    """What a reader of these figures must know of the training behind them."""
    found = [_overlap(row, cohort) for row in scorer.identity["training"]]
    laterals = sum(case.view == "lateral" for case in cohort.cases)
    if laterals and "lateral" not in scorer.presets.views:
        found.append(f"trained on frontal images; {laterals} images of the dataset are lateral")
    return [text for text in dict.fromkeys(found) if text]


def _overlap(trained_on: dict[str, str], cohort: Cohort) -> str:
    """Why figures may be of training images; "" where nothing says so."""
    table = cohort.root / cohort.name.rpartition("/")[2]  # of a manifest, the file itself
    digest = sha256_of(table) if cohort.kind == "manifest" and table.is_file() else ""
    same = bool(digest) and trained_on["sha256"] == digest
    if not same and trained_on["data"] != cohort.name:
        return ""
    part = f"split {cohort.split}" if cohort.split else "all of it, not one split"
    return f"a checkpoint was trained on {trained_on['data']}, which is evaluated here ({part})"
