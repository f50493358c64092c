"""9x9 sudoku: boards, solver, generator, symmetries, files, and their form as tokens (``SUDOKU``)."""
