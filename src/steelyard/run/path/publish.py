"""The last step: measure the candidate, put it in the place of the service before it, ask it one question.

Once the gate has passed nothing cosmetic ends the run: figures that cannot be taken are left out, and said.
"""

from __future__ import annotations

from ...errors import Lacking
from ..child.memory import PeakMemory
from ..record.approval import check_approved
from ..service.load import measure_load
from ..service.sample import ask_sample
from ..service.services import api_key
from .erased import check_erased
from .learn import counted, learn
from .run import Run, predicted
from .step import Again, Step


def published(run: Run, step: Step) -> Again:
    """The service goes live; predicted and measured stand beside each other.

    Raises Refused where the recipe asks for an approval that is not there, Lacking where the candidate died,
    ErasedMeanwhile, and what `run.before` raises.
    """
    record, recipe, compressed = run.outcome.record(step.name), run.ready.recipe, run.artefacts["compressed"]
    verdict = run.artefacts.get("verdict")
    check_approved(recipe, run.ready.workdir.folder, compressed.hash, verdict.hash if verdict else None)
    run.candidates.references.close()
    key = api_key(recipe)
    with PeakMemory(steady=True) as memory:
        candidate = run.candidates.candidate(compressed, run.checkpoint)
        if run.before is not None:
            run.before(run)
        speed = measure_load(candidate.service.url, recipe.goal.load, key, run.watch)
    if not candidate.service.alive():
        raise Lacking(
            "serve.died",
            "the service ended before it was published",
            why="it had answered before; its last words stand in the log",
            hint="free memory, then run the same command again: all steps are reused",
        )
    check_erased(run)
    run.outcome.service = run.candidates.publish(run.keep, verdict)
    record.artefact, record.hash, record.state = str(compressed.folder), compressed.hash, "done"
    measured = {"wall_s": candidate.wall_s, "peak_rss_bytes": float(memory.bytes)} | speed
    record.predicted = predicted(run.ready, step.name)
    record.measured = counted(run.ready, record.predicted, measured)
    run.attempt.measured |= {k: v for k, v in speed.items() if k in run.attempt.predicted}
    learn(run, step.name, step.settings(run.ready)[0], record.predicted, record.measured, memory.share)
    if not run.store.keys:  # a row and its answer are the user's secrets
        url = run.candidates.url or run.outcome.service["url"]  # on loopback; the other may be HTTPS
        run.outcome.sample = ask_sample(url, run.artefacts.get("dataset"), key, run.watch)
    return ()
