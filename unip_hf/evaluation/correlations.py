# Copyright 2026 The unip_hf authors. Licensed under the Apache License, Version 2.0.
"""How scores of pre-trained networks go together, such as probing and fine-tuning (paper, table 1)."""

from itertools import combinations
from pathlib import Path

import pandas as pd

from ..modeling.configuration_unip import UNIP_SIZES
from .result_tables import AVERAGE, TASKS, to_markdown


PLACES = ["method", "size"]
LETTERS = {name[0].upper(): name for name in UNIP_SIZES}
ALL_SIZES = "all"
FEWEST = 3  # points that a coefficient needs; two always lie on a line


def read_scores(file: Path) -> pd.DataFrame:
    """
    Reads a table of scores: CSV with the columns `method` and `size` (`tiny` or `T`, ...), then numbers. Cells may be
    empty, and lines that begin with `#` are comments.

    Returns:
        One column for each score, with method and size as the index.

    Raises:
        OSError: if there is no such file.
        ValueError: if a column is missing or not a number, or a row is there twice.
    """
    try:
        frame = pd.read_csv(file, comment="#", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"'{file}' is not a table in CSV: {error}") from error
    missing = [name for name in PLACES if name not in frame]
    if missing:
        raise ValueError(f"'{file}' has no column {missing[0]!r}: it needs method, size, and then numbers.")
    texts = [str(name) for name in frame.columns.difference(PLACES) if not pd.api.types.is_numeric_dtype(frame[name])]
    if texts:
        raise ValueError(f"The column {texts[0]!r} of '{file}' holds something that is not a number.")
    frame = frame.assign(size=frame["size"].replace(LETTERS))
    double = frame[frame.duplicated(PLACES)]
    if frame[PLACES].isna().any(axis=None) or len(double):
        what = f"{' '.join(map(str, double[PLACES].iloc[0]))} is there twice" if len(double) else "one is empty"
        raise ValueError(f"Each row of '{file}' needs a method and size of its own, but {what}.")
    scores = frame.set_index(PLACES)
    return scores.astype(float)


def scores_of_runs(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """
    Fine-tuning and linear probing of runs, in percent.

    Args:
        cells: What [`collect_scores`] returned.

    Returns:
        The mean over data sets as [`read_scores`] returns scores, and the data sets: those that each method and size
        has in each of the two tasks that occur.

    Raises:
        ValueError: if there is no such data set.
    """
    cells = cells[cells["task"].isin(TASKS[:2]) & (cells["dataset"] != AVERAGE)]
    of_rows = cells.groupby([*PLACES, "task"])["dataset"].agg(set)
    shared = sorted(set.intersection(*of_rows)) if len(of_rows) else []
    if not shared:
        raise ValueError("There is no data set that all runs of fine-tuning and linear probing share.")
    means = cells[cells["dataset"].isin(shared)].pivot_table("mean_iou_percent", PLACES, "task", sort=False)
    return means[[task for task in TASKS if task in means]], shared


def correlate(scores: pd.DataFrame) -> pd.DataFrame:
    """
    Pearson's coefficient of each pair of scores, for each size and over all.

    Args:
        scores: As [`read_scores`] returns them.

    Returns:
        One row for each pair and size, with the columns `first`, `second`, `size` (or `"all"`), `pearson` (missing
        with fewer than three points, and where all values are equal) and `points`.

    Raises:
        ValueError: if there are fewer than two scores.
    """
    if scores.shape[1] < 2:
        names = ", ".join(map(str, scores.columns)) or "none"
        raise ValueError(f"A correlation needs two columns of numbers or more, and there is {names}.")
    order = [*UNIP_SIZES, *scores.index.unique("size").difference(list(UNIP_SIZES))]
    groups = {size: scores[scores.index.get_level_values("size") == size] for size in order}
    groups = {size: group for size, group in groups.items() if len(group)}
    rows = []
    for first, second in combinations(scores.columns, 2):
        for size, group in {**groups, ALL_SIZES: scores}.items():
            points = group[[first, second]].dropna()
            varies = len(points) >= FEWEST and (points.nunique() > 1).all()
            pearson = points[first].corr(points[second]) if varies else None
            rows.append((first, second, size, pearson, len(points)))
    return pd.DataFrame(rows, columns=["first", "second", "size", "pearson", "points"])


def correlations_to_markdown(correlations: pd.DataFrame) -> str:
    """The table of [`correlate`] in Markdown: the coefficient, and how many points it has."""
    texts = [
        f"{'too few' if points < FEWEST else 'undefined' if pd.isna(pearson) else f'{pearson:.2f}'} ({points})"
        for pearson, points in correlations[["pearson", "points"]].itertuples(index=False)
    ]
    table = correlations.assign(text=texts)
    table = table.pivot(index=["first", "second"], columns="size", values="text")
    table = table[correlations["size"].unique()].reset_index()  # pivot sorts
    table = table.rename(columns={"first": "score", "second": "and"})
    note = f"Pearson's coefficient, followed by the number of networks. Fewer than {FEWEST} are too few."
    return f"{to_markdown(table, num_text_columns=2)}\n\n{note}\n"


__all__ = ["correlate", "correlations_to_markdown", "read_scores", "scores_of_runs"]
