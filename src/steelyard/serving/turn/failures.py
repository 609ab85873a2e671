"""What went wrong in making an answer, as an error of the API or the last event of a stream."""

from __future__ import annotations

from collections.abc import Callable

from ..base.errors import ApiError
from ..host.engine_process import EngineEnding, EngineLost, EngineRefused


def of_engine(e: EngineLost) -> ApiError:
    """400 where the engine will not do what was asked, 503 where it could not."""
    if isinstance(e, EngineRefused):
        return ApiError(400, str(e), code="engine_refused")
    code = "draining" if isinstance(e, EngineEnding) else "engine_unavailable"
    return ApiError(503, str(e), code=code)


def failed_by(say: Callable[[ApiError], bytes]) -> Callable[[Exception], bytes]:
    """The last event of a stream that failed before it began: `say` writes it in the dialect's words."""

    def failed(e: Exception) -> bytes:
        if isinstance(e, EngineLost):
            return say(of_engine(e))
        if isinstance(e, ApiError):
            return say(e)
        raise e

    return failed
