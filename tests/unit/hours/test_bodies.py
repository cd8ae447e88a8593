"""What a body of hours may say about time."""

from uuid import uuid4

import pytest
from pydantic import ValidationError

from services.hours.application import CorrectServiceTime

SAID = {"served_on": "2017-03-05", "ends_at": "2017-03-05T11:00:00+08:00", "reason": "wrong_time", "requester_id": str(uuid4())}


def test_equal_instants_are_kept_in_equal_words() -> None:
    here = CorrectServiceTime.model_validate_json(
        CorrectServiceTime.model_validate(SAID | {"starts_at": "2017-03-05T09:00:00+08:00"}).model_dump_json()
    )
    there = CorrectServiceTime.model_validate(SAID | {"starts_at": "2017-03-05T01:00:00Z"})
    assert here.model_dump_json() == there.model_dump_json()
    assert '"starts_at":"2017-03-05T01:00:00Z"' in here.model_dump_json()


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-08:00", "2017-03-05T09:00:00"])
def test_an_instant_outside_of_our_calendar_or_without_a_zone_is_refused(instant: str) -> None:
    with pytest.raises(ValidationError):
        CorrectServiceTime.model_validate(SAID | {"starts_at": instant})
