"""Every table of look-ups is said to be written from one log, so that what was read of that log can be read anew."""

import re

import pytest

from services.hours.main import SERVICE as HOURS
from services.recognition.main import SERVICE as RECOGNITION
from services.registration.main import SERVICE as REGISTRATION
from shared.process import Service


@pytest.mark.parametrize("service", [REGISTRATION, HOURS, RECOGNITION], ids=lambda service: service.name)
def test_each_table_of_look_ups_belongs_to_one_log(service: Service[object]) -> None:
    sql = "".join(file.read_text(encoding="utf-8") for file in sorted(service.migrations.directory.glob("*.sql")))
    made = re.findall(r"CREATE TABLE lookup\.(\w+)", sql)
    assert sorted(table for each in service.look_ups for table in each.tables) == sorted(made)
