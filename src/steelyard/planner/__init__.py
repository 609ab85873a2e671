"""Time, memory, price and energy of a job before it runs. Pure: values in, values out, numpy alone."""

from .constants import Constants
from .facts import DataFacts, Fill
from .fill import fill, learning_rate
from .fitting import fit, leave_sources_out
from .forms import form_order, loss_source, nominal_speed, quality_loss, stored_bytes
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
    "form_order",
    "learning_rate",
    "learnt",
    "leave_sources_out",
    "loss_source",
    "named_shape",
    "nominal_speed",
    "plan",
    "plan_recipe",
    "predict",
    "predict_results",
    "quality_loss",
    "request_of",
    "score_results",
    "shape_of",
    "stored_bytes",
    "within_limits",
]
