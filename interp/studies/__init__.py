"""Studies: one file each, one line in ``STUDIES``."""

from interp.studies.account import ACCOUNT
from interp.studies.adaptation import ADAPTATION
from interp.studies.backtracking import BACKTRACKING
from interp.studies.base import Study, StudyError, StudyReport, read_study, run_study, write_study
from interp.studies.diversity import DIVERSITY
from interp.studies.lenses import LENS_STUDY
from interp.studies.policies import UNMASKING
from interp.studies.story_leads import STORY_LEADS
from interp.studies.sudoku_pair import SUDOKU_PAIR

STUDIES: dict[str, Study] = {
    "account": ACCOUNT,
    "adaptation": ADAPTATION,
    "backtracking": BACKTRACKING,
    "diversity": DIVERSITY,
    "lenses": LENS_STUDY,
    "policies": UNMASKING,
    "story_leads": STORY_LEADS,
    "sudoku_pair": SUDOKU_PAIR,
}


def study_named(name: str) -> Study:
    """Returns the study of that name; raises StudyError, with the choices, where there is none."""
    if name not in STUDIES:
        raise StudyError(f"unknown study {name!r}; choose from {', '.join(STUDIES)}")
    return STUDIES[name]


__all__ = ["STUDIES", "Study", "StudyError", "StudyReport", "read_study", "run_study", "study_named", "write_study"]
