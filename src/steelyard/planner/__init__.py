"""Time, memory, price and energy of a job before it runs. Pure: values in, values out, numpy alone.

Importing this door loads nothing: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .here.limits import check_limits
    from .here.local import Local, explain, learnt, predict
    from .here.media import decode_s
    from .job.abilities import per_ability
    from .job.cost import provider_of
    from .job.facts import DataFacts, Fill
    from .job.fill import fill, learning_rate
    from .job.forms import form_order, loss_source, nominal_speed, quality_loss, stored_bytes
    from .job.gate_rows import gate_document, gate_rows
    from .job.plans import Plan, Plans, explain_plan, within_limits
    from .job.pruned import LOSS_SOURCE, optional_steps, pruned_loss, pruned_shape, pruning_where, shares_of
    from .job.pruned_experts import UNREACHED
    from .job.request import DRAFTED, PRICE_CLASSES, Owned, OwnPrice, Request
    from .published.cell_faults import COLUMNS, CellFault, cell_faults
    from .published.claims import Checked, check_claims
    from .published.constants import Constants
    from .published.fitting import LeftOut, fit, fit_logs, leave_out, quantile
    from .published.results import Prediction, Scores, predict_results, row_key, score_results
    from .published.shapes import named_shape, shape_of
    from .published.stack import serving_rows, typical_rows, with_stack
    from .search.exports import EXPECTED, compared, expected_rows, planned_training
    from .search.launches import Planned, exported_service, launch_document, planned_service
    from .search.search import HERE, plan, what_if, why_not
    from .search.whole import plan_recipe, request_of, stage_tokens, this_machine

FILES = {
    "COLUMNS": "published.cell_faults",
    "DRAFTED": "job.request",
    "EXPECTED": "search.exports",
    "HERE": "search.search",
    "PRICE_CLASSES": "job.request",
    "UNREACHED": "job.pruned_experts",
    "CellFault": "published.cell_faults",
    "Checked": "published.claims",
    "Constants": "published.constants",
    "DataFacts": "job.facts",
    "Fill": "job.facts",
    "LeftOut": "published.fitting",
    "LOSS_SOURCE": "job.pruned",
    "Local": "here.local",
    "OwnPrice": "job.request",
    "Owned": "job.request",
    "Plan": "job.plans",
    "Planned": "search.launches",
    "Plans": "job.plans",
    "Prediction": "published.results",
    "Request": "job.request",
    "Scores": "published.results",
    "cell_faults": "published.cell_faults",
    "check_claims": "published.claims",
    "check_limits": "here.limits",
    "compared": "search.exports",
    "decode_s": "here.media",
    "expected_rows": "search.exports",
    "explain": "here.local",
    "explain_plan": "job.plans",
    "exported_service": "search.launches",
    "fill": "job.fill",
    "fit": "published.fitting",
    "fit_logs": "published.fitting",
    "form_order": "job.forms",
    "gate_document": "job.gate_rows",
    "gate_rows": "job.gate_rows",
    "launch_document": "search.launches",
    "learning_rate": "job.fill",
    "learnt": "here.local",
    "leave_out": "published.fitting",
    "loss_source": "job.forms",
    "named_shape": "published.shapes",
    "nominal_speed": "job.forms",
    "optional_steps": "job.pruned",
    "per_ability": "job.abilities",
    "plan": "search.search",
    "plan_recipe": "search.whole",
    "planned_service": "search.launches",
    "planned_training": "search.exports",
    "predict": "here.local",
    "predict_results": "published.results",
    "provider_of": "job.cost",
    "pruned_loss": "job.pruned",
    "pruned_shape": "job.pruned",
    "pruning_where": "job.pruned",
    "quality_loss": "job.forms",
    "quantile": "published.fitting",
    "request_of": "search.whole",
    "row_key": "published.results",
    "score_results": "published.results",
    "serving_rows": "published.stack",
    "shape_of": "published.shapes",
    "shares_of": "job.pruned",
    "stage_tokens": "search.whole",
    "stored_bytes": "job.forms",
    "this_machine": "search.whole",
    "typical_rows": "published.stack",
    "what_if": "search.search",
    "why_not": "search.search",
    "with_stack": "published.stack",
    "within_limits": "job.plans",
}

__all__ = [
    "COLUMNS",
    "DRAFTED",
    "EXPECTED",
    "HERE",
    "LOSS_SOURCE",
    "PRICE_CLASSES",
    "UNREACHED",
    "CellFault",
    "Checked",
    "Constants",
    "DataFacts",
    "Fill",
    "LeftOut",
    "Local",
    "OwnPrice",
    "Owned",
    "Plan",
    "Planned",
    "Plans",
    "Prediction",
    "Request",
    "Scores",
    "cell_faults",
    "check_claims",
    "check_limits",
    "compared",
    "decode_s",
    "expected_rows",
    "explain",
    "explain_plan",
    "exported_service",
    "fill",
    "fit",
    "fit_logs",
    "form_order",
    "gate_document",
    "gate_rows",
    "launch_document",
    "learning_rate",
    "learnt",
    "leave_out",
    "loss_source",
    "named_shape",
    "nominal_speed",
    "optional_steps",
    "per_ability",
    "plan",
    "plan_recipe",
    "planned_service",
    "planned_training",
    "predict",
    "predict_results",
    "provider_of",
    "pruned_loss",
    "pruned_shape",
    "pruning_where",
    "quality_loss",
    "quantile",
    "request_of",
    "row_key",
    "score_results",
    "serving_rows",
    "shape_of",
    "shares_of",
    "stage_tokens",
    "stored_bytes",
    "this_machine",
    "typical_rows",
    "what_if",
    "why_not",
    "with_stack",
    "within_limits",
]

__getattr__ = fetching(__name__, FILES)
