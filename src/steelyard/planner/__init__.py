"""Time, memory, price and energy of a job before it runs. Pure: values in, values out, numpy alone."""

from .constants import Constants
from .facts import DataFacts, Filled
from .fill import fill
from .fitting import fit, leave_sources_out
from .results import Prediction, Scores, predict_results, score_results

__all__ = [
    "Constants",
    "DataFacts",
    "Filled",
    "Prediction",
    "Scores",
    "fill",
    "fit",
    "leave_sources_out",
    "predict_results",
    "score_results",
]
