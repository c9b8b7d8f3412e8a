"""All checks in turn, and what they found as text: one line where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable

from dataset.doctor.checks import (
    conflicts,
    dominating,
    duplicates,
    fitting,
    languages,
    lengths,
    pictures,
    without_picture,
)
from dataset.doctor.examined import Examined
from dataset.doctor.finding import MOST_EXAMPLES, CannotCheck, Finding
from settings import Config, require_paths

# What ruins a run or its score comes first. A new check is a function and an entry here.
CHECKS: dict[str, Callable[[Examined], Finding | None]] = {
    "unreadable pictures": pictures.unreadable_pictures,
    "shared between splits": duplicates.shared_between_splits,
    "answers that do not fit": fitting.unfit_answers,
    "the same answer to all": fitting.same_answer_to_all,
    "empty words": fitting.empty_words,
    "swapped": fitting.answers_that_ask,
    "conflicting answers": conflicts.conflicting_answers,
    "dominating answer": dominating.dominating_answer,
    "answered without the picture": without_picture.answered_without_picture,
    "text only": pictures.text_only,
    "too long": lengths.too_long,
    "mixed languages": languages.answers_in_another_language,
    "declared language": languages.declared_language,
    "rare language": languages.rare_language,
    "copies": duplicates.copied_pictures,
    "near duplicates": duplicates.near_duplicates,
    "tiny pictures": pictures.tiny_pictures,
    "huge pictures": pictures.huge_pictures,
    "narrow pictures": pictures.narrow_pictures,
}


def check_data(config: Config) -> int:
    """Run every check on the files of process_image.py and print the report.

    Returns:
        How many checks found something.

    Raises:
        UserError: the files cannot be read.
    """
    require_paths(config, "data.image_map", "data.annotations")
    data = Examined(config)
    findings: dict[str, Finding] = {}
    skipped: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            finding = check(data)
        except CannotCheck as error:
            skipped[name] = str(error)
            continue
        if finding is not None:
            findings[name] = finding
    made = len(CHECKS) - len(skipped)
    print(f"{config.data.annotations}: {_sizes(data)}; {made} checks, {_findings(len(findings))}")
    for number, (name, finding) in enumerate(findings.items(), start=1):
        print(_text(number, name, finding))
    for name, reason in skipped.items():
        print(f"\nnot checked: {name} ({reason})")
    return len(findings)


def _findings(count: int) -> str:
    return "1 finding" if count == 1 else f"{count or 'no'} findings"


def _sizes(data: Examined) -> str:
    splits = data.count_by(lambda conversation: conversation["split"])
    by_split = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    return f"{len(data.paths):,} pictures, {len(data.conversations):,} conversations ({by_split or 'none'})"


def _text(number: int, name: str, finding: Finding) -> str:
    lines = [f"\n{number}. {name}: {finding.problem}"]
    lines += [f"   such as: {example}" for example in finding.examples[:MOST_EXAMPLES]]
    if len(finding.examples) > MOST_EXAMPLES:
        lines.append(f"   and {len(finding.examples) - MOST_EXAMPLES:,} more")
    return "\n".join([*lines, f"   to do: {finding.advice}"])
