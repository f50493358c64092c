"""Tasks: one file or folder each, one line in ``TASKS``."""

from models.tasks.base import Task, Verdicts
from models.tasks.sudoku.task import SUDOKU

TASKS: dict[str, Task] = {task.name: task for task in (SUDOKU,)}

__all__ = ["TASKS", "Task", "Verdicts"]
