"""Tasks: one file or folder each, one line in ``TASKS``."""

from models.tasks.base import Batch, Document, PuzzleTask, Task, TaskError, TextTask, TrainingData, Verdicts, puzzle_task, text_task
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.task import SUDOKU

TASKS: dict[str, Task] = {task.name: task for task in (SUDOKU, STORIES)}

__all__ = [
    "TASKS",
    "Batch",
    "Document",
    "PuzzleTask",
    "Task",
    "TaskError",
    "TextTask",
    "TrainingData",
    "Verdicts",
    "puzzle_task",
    "text_task",
]
