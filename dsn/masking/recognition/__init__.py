"""Which task an input is of, where nobody says so: from what each task knows of its own data."""

from .known import Known, know
from .scores import SCORES, Fit, Recognised, choose, fit

__all__ = ["SCORES", "Fit", "Known", "Recognised", "choose", "fit", "know"]
