# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """
    A table of cells, the head first; columns after the first `text_columns` are right-aligned, as figures are.
    """
    head, *body = rows
    rule = ["---" if column < text_columns else "---:" for column in range(len(head))]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (head, rule, *body))


__all__ = ["markdown_table"]
