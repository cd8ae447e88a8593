"""Requests that nobody thought of, made from the three OpenAPI documents: each operation by itself, and walks on which an answer leads to
the next request. None of them is answered by a server error.
"""

from typing import Any, Final

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from deploy.local.environment import SERVICES, base_url
from tests.e2e.stage import Stage

EACH: Final = 5
"""Requests of one operation, right and wrong ones."""
WALKS: Final = 8
STEPS: Final = 8
"""Requests of one walk. Bounded, so that the whole takes about a minute; the seed is the same each time."""
AWAY: Final = 503
"""Said on purpose, with Retry-After: a database that does not answer in time on a busy machine. Everything else from 500 on is ours."""

BOUNDED: Final[Any] = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(params=["bureau_admin", "volunteer"])
def headers(request: pytest.FixtureRequest, stage: Stage) -> dict[str, str]:
    """Somebody who may almost everything, and somebody who may almost nothing."""
    who = "局长甲" if request.param == "bureau_admin" else "漫步者"
    return {"Authorization": stage.stack.token(who, request.param, "water-bureau")}


def document(stage: Stage, service: str) -> Any:
    return schemathesis.openapi.from_url(f"{base_url(stage.stack.ports, service)}/api/v1/openapi.json")


def judge(response: Any, case: Any, met: list[int]) -> None:
    met.append(response.status_code)
    if response.status_code != AWAY:
        case.validate_response(response, checks=[not_a_server_error])


@pytest.mark.parametrize("service", SERVICES)
async def test_no_request_that_the_document_allows_or_almost_allows_meets_a_server_error(
    stage: Stage, service: str, headers: dict[str, str]
) -> None:
    met: list[int] = []
    operations = [each.ok() for each in document(stage, service).get_all_operations()]
    for operation in operations:
        modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        cases = st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes])

        @settings(max_examples=EACH, phases=[Phase.generate], **BOUNDED)
        @given(case=cases)
        def ask(case: Any) -> None:
            judge(case.call(headers=headers, timeout=20), case, met)

        ask()
    assert len(met) >= len(operations) * EACH // 2
    assert set(met) & {200, 400, 403, 404, 422}


@pytest.mark.parametrize("service", ["registration", "hours"])  # Of recognition's answers none leads to another request.
async def test_no_walk_through_the_document_ends_in_a_server_error(stage: Stage, service: str, headers: dict[str, str]) -> None:
    met: list[int] = []

    class Walk(document(stage, service).as_state_machine()):  # type: ignore[misc]
        """Somebody with a token of the role."""

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers, "timeout": 20}

        def validate_response(self, response: Any, case: Any, **_more: Any) -> None:
            judge(response, case, met)

    Walk.run(settings=settings(max_examples=WALKS, stateful_step_count=STEPS, phases=[Phase.generate], **BOUNDED))
    assert len(met) >= WALKS
