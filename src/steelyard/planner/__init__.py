"""Time, memory, price and energy of a job before it runs. Pure: values in, values out, numpy alone."""

from .constants import Constants
from .facts import DataFacts, Fill
from .fill import fill
from .fitting import fit, leave_sources_out
from .local import Local, check_limits, explain, learnt, predict
from .results import Prediction, Scores, predict_results, score_results
from .search import Plan, Plans, Request, plan, within_limits
from .shapes import named_shape, shape_of
from .whole import plan_recipe, request_of

__all__ = [
    "Constants",
    "DataFacts",
    "Fill",
    "Local",
    "Plan",
    "Plans",
    "Prediction",
    "Request",
    "Scores",
    "check_limits",
    "explain",
    "fill",
    "fit",
    "learnt",
    "leave_sources_out",
    "named_shape",
    "plan",
    "plan_recipe",
    "predict",
    "predict_results",
    "request_of",
    "score_results",
    "shape_of",
    "within_limits",
]
