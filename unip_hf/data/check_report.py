# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""What the check of a dataset found, as texts and numbers."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .statistics import Intensities, SplitReport


MAX_FILES = 5  # named with each problem


@dataclass
class Problem:
    """
    Something wrong with a dataset.

    Args:
        severity (`str`): "error" if a training would fail or learn nonsense, otherwise "warning".
        message (`str`): What is wrong and what to do.
        split (`str`, *optional*): The split. `None` means all splits.
        files (`list[str]`): The first few files, with what is wrong in each.
        num_files (`int`): How many files there are in all. 0 if the problem is not about files.
    """

    severity: str
    message: str
    split: str | None = None
    files: list[str] = field(default_factory=list)
    num_files: int = 0

    def __str__(self) -> str:
        return self.describe(": ", "; ") + "."

    def describe(self, before_files: str, between_files: str) -> str:
        """The message with the files, which these texts separate."""
        text = f"{self.split}: {self.message}" if self.split else self.message
        if not self.num_files:
            return text
        left = self.num_files - len(self.files)
        named = [*self.files, f"and {left} more"] if left else self.files
        count = f"{self.num_files} file{'s' * (self.num_files > 1)}"
        return f"{text} ({count}){before_files}{between_files.join(named)}"

    def add(self, file: str) -> None:
        """Counts a file."""
        self.num_files += 1
        if len(self.files) < MAX_FILES:
            self.files.append(file)


@dataclass
class DatasetReport:
    """
    What [`check_dataset`] found.

    Args:
        splits (`dict[str, SplitReport]`): What each split holds.
        problems (`list[Problem]`): Errors first.
        notes (`list[str]`): What a user should know, such as how masks are made.
        recommendations (`list[str]`): What a training on this dataset should be given.
    """

    splits: dict[str, SplitReport]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    recommendations: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def has_errors(self) -> bool:
        return bool(self.errors)

    def raise_for_errors(self) -> None:
        """
        Raises:
            ValueError: if there are errors. The message names the first few.
        """
        if not self.has_errors:
            return
        first = " ".join(str(replace(error, files=error.files[:1])) for error in self.errors[:3])
        more = f" There are {len(self.errors)} kinds of error." if len(self.errors) > 3 else ""
        raise ValueError(f"The dataset cannot be used. {first}{more} `unip check-dataset` shows all.")

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers and texts, for JSON."""
        return {"has_errors": self.has_errors, **asdict(self)}

    def __str__(self) -> str:
        lines, indent = [*self.notes, *[""] * bool(self.notes)], "\n    "
        for split, report in self.splits.items():
            lines += [f"{split}: {report.num_images} images"]
            counted = {"size": report.sizes, "format": report.formats}
            lines += [f"  {name:<10}{_counts(counts)}" for name, counts in counted.items() if counts]
            lines += _intensity_lines(report.intensities)
            if report.visible_formats:
                lines.append(f"  {'visible':<10}{_counts(report.visible_formats)}")
                lines += _intensity_lines(report.visible_intensities)
            lines.append(f"  ignored   {report.ignored_share:.2%} of the pixels")
            width = max([len(str(share.name)) for share in report.classes] + [5])
            lines.append(f"  {'id':>5}  {'class':<{width}}  {'pixels':>8}  {'images':>7}")
            lines += [
                f"  {share.id:>5}  {share.name or '?':<{width}}  {share.pixel_share:>8.2%}  {share.num_images:>7}"
                for share in report.classes
            ]
            lines.append("")
        found = [f"{problem.severity}: {problem.describe(indent, indent)}" for problem in self.problems]
        lines += found or ["No problems found."]
        lines += [f"advice: {text}." for text in self.recommendations]
        return "\n".join(lines)


def _intensity_lines(intensities: dict[str, Intensities]) -> list[str]:
    lines = []
    for dtype, values in intensities.items():
        ranks = ", ".join(f"{value:.6g} at {rank} %" for rank, value in values.percentiles.items())
        lines.append(f"  {dtype:<10}{values.min:.6g} to {values.max:.6g}; {ranks}")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


__all__ = ["DatasetReport", "Problem"]
