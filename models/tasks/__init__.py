"""Tasks: one file or folder each, one line in ``TASKS``; ``models.tasks.text`` is that of any other model's own tokenizer."""

from models.tasks.base import (
    Batch,
    CorpusTask,
    Document,
    PuzzleTask,
    Task,
    TaskError,
    TextTask,
    TrainableTask,
    TrainingData,
    Verdicts,
    asked,
    corpus_task,
    puzzle_task,
    text_task,
)
from models.tasks.stories.task import STORIES
from models.tasks.sudoku.task import SUDOKU

TASKS: dict[str, TrainableTask] = {task.name: task for task in (SUDOKU, STORIES)}

__all__ = [
    "TASKS",
    "Batch",
    "CorpusTask",
    "Document",
    "PuzzleTask",
    "Task",
    "TaskError",
    "TextTask",
    "TrainableTask",
    "TrainingData",
    "Verdicts",
    "asked",
    "corpus_task",
    "puzzle_task",
    "text_task",
]
