"""Every metric that is declared is moved by a test: here on the running system, or by the test that is named."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.children import wait_for
from deploy.local.environment import HOST, SERVICES
from deploy.local.kafka import free_ports
from deploy.local.places import CHECKOUT
from services.hours import main as hours
from shared.contracts.topics import SUBSCRIPTIONS
from shared.metrics import DEFINITIONS, PREFIX
from tests.e2e.stack import REACTIONS, Stack, command
from tests.e2e.stage import UNIT, Stage, Volunteer, accepted, on
from tests.forks.children import python, start
from tests.loopback import NO_TLS

PROCESSES: Final = [f"{service}-{role}" for service in SERVICES for role in ("api", "worker")]
ROLES: Final = ("relay", "views", "inbox", "withdrawals")
AT_REST_S: Final = 30.0
LOOK_EVERY_S: Final = 0.25
LOG_LOCK: Final = 5104202001
"""What an append takes first (`es.append`); as long as somebody else has it, the append waits."""


class Figures:
    """What the `/metrics` of all six processes say at one moment."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        self._samples = [
            (process, sample.name.removeprefix(PREFIX), {**sample.labels}, sample.value)
            for process, page in pages.items()
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]

    def of(self, name: str, process: str = "", **labels: str) -> list[float]:
        """The values of the samples of that name that have these labels, of processes whose name contains `process`."""
        return [value for where, each, has, value in self._samples if each == name and process in where and labels.items() <= has.items()]

    def names(self, process: str) -> set[str]:
        """The names of all samples of one process."""
        return {name for where, name, _, _ in self._samples if where == process}

    def labels(self, name: str, process: str, *wanted: str) -> set[tuple[str, ...]]:
        """The combinations of labels under which a process has samples of that name."""
        return {tuple(has[each] for each in wanted) for where, each, has, _ in self._samples if each == name and where == process}


async def look(stack: Stack) -> Figures:
    """Scrapes all six."""
    async with httpx.AsyncClient(timeout=5, verify=NO_TLS) as client:
        return Figures({name: (await client.get(f"{stack.url(name)}/metrics")).text for name in PROCESSES})


async def seen(stack: Stack, holds: Callable[[Figures], bool]) -> bool:
    """Whether it holds soon: gauges are set every other second."""
    end = time.monotonic() + AT_REST_S
    while not holds(await look(stack)):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(LOOK_EVERY_S)
    return True


@asynccontextmanager
async def second_api(stack: Stack) -> AsyncIterator[str]:
    """Another api process of registration, beside the first one; its address."""
    [port] = free_ports(1)
    environment = {**os.environ, **stack.environment("registration"), "REGISTRATION_HTTP_PORT": str(port)}
    log = stack.folder / "registration-api-2.log"
    child = start("registration-api-2", "services.registration", "api", log=log, environment=environment)
    url = f"http://{HOST}:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/readyz", timeout=2, verify=NO_TLS).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        assert wait_for(answers, 30)
        yield url
    finally:
        child.stop()


async def meet_a_conflict(stage: Stage) -> None:
    """Two processes change the same activity in turns: the first one remembers what the second has changed since."""
    day = await stage.day()
    activity = await stage.activity(on(day, "09:00"), on(day, "10:00"))
    path = f"/activities/{activity.id}/capacity"
    async with second_api(stage.stack) as url:
        headers = {"Authorization": stage.stack.token("科长丙", "unit_admin", UNIT)}
        async with httpx.AsyncClient(base_url=url, headers=headers, verify=NO_TLS) as second:
            versions = [
                accepted(await command(client, path, {"position": "cleaner", "capacity": capacity}))["version"]
                for client, capacity in ((stage.leader("registration"), 6), (second, 7), (stage.leader("registration"), 8))
            ]
    assert versions == [2, 3, 4]


async def lose_a_connection(stage: Stage, volunteer: Volunteer) -> None:
    """The database ends the connection on which an append is under way; the same key again then gets an answer."""
    stack, path, key = stage.stack, f"/volunteers/{volunteer.id}/stars", uuid4().hex
    applicant = stage.self_("recognition", volunteer.id)
    holder = await asyncpg.connect(stack.dsn("recognition", "admin"), timeout=5)
    await holder.execute("SELECT pg_advisory_lock($1)", LOG_LOCK)
    asked = asyncio.create_task(command(applicant, path, {"stars": 2}, key=key))
    end = time.monotonic() + 10
    while not await stack.sql("recognition", _END_WHO_WAITS, holder.get_server_pid()):
        assert time.monotonic() < end
    await holder.close(timeout=5)
    answer = await asked
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    again = await command(applicant, path, {"stars": 2}, key=key)
    assert again.json()["code"] == "star_out_of_order"


_END_WHO_WAITS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND $1 = ANY (pg_blocking_pids(pid)) AND application_name LIKE '%store'
"""


@pytest.fixture(scope="module")
async def volunteer(stage: Stage) -> Volunteer:
    """Somebody to whom everything happens that can: accepted, refused, repeated, in conflict, and without an answer."""
    stack = stage.stack
    first, later = await stage.day(), await stage.day()
    volunteer = await stage.volunteer("计数人")
    activity = await stage.activity(on(first, "09:00"), on(first, "10:00"))
    coming = await stage.activity(on(later, "09:00"), on(later, "10:00"))
    await stage.confirm(await stage.served(volunteer, activity, on(first, "09:00"), on(first, "10:00")))
    body, key = {"volunteer_id": str(volunteer.id), "position": "cleaner"}, uuid4().hex
    person, path = stage.self_("registration", volunteer.id), f"/activities/{coming.id}/enrollments"
    outcomes = [
        await command(person, path, body, key=key, After=coming.after),
        await command(person, path, body, key=key),
        await command(person, path, body),
        await command(person, path, body, If_Match='"1"'),
    ]
    assert [each.status_code for each in outcomes] == [200, 200, 409, 412]
    await meet_a_conflict(stage)
    await lose_a_connection(stage, volunteer)
    await stack.settled()
    return volunteer


HERE: Final[Mapping[str, Callable[[Figures], bool]]] = {
    "command_outcomes_total": lambda f: all(
        sum(f.of("command_outcomes_total", "api", outcome=outcome)) > 0
        for outcome in ("accepted", "refused", "duplicate", "conflict", "unavailable")
    ),
    "command_duration_seconds": lambda f: sum(f.of("command_duration_seconds_count", "registration-api", command="enroll")) >= 4,
    "http_request_duration_seconds": lambda f: all(
        sum(f.of("http_request_duration_seconds_count", "api", code_class=each)) > 0 for each in ("2xx", "4xx", "5xx")
    ),
    "http_requests_in_flight": lambda f: min(f.of("http_requests_in_flight", "api")) >= 1,  # The scrape itself.
    "event_store_append_duration_seconds": lambda f: sum(f.of("event_store_append_duration_seconds_count", category="activity")) > 0,
    "event_store_conflicts_total": lambda f: sum(f.of("event_store_conflicts_total", category="activity")) >= 1,
    "events_appended_total": lambda f: sum(f.of("events_appended_total", type="registration.volunteer_registered")) > 0,
    "relay_published_total": lambda f: min(f.of("relay_published_total", "worker")) > 0,
    "log_head_position": lambda f: min(f.of("log_head_position", "worker")) > 0,
    "log_published_position": lambda f: (
        min(f.of("log_published_position", "worker")) > 0
        and f.of("log_published_position", "worker") == f.of("log_head_position", "worker")
    ),
    "worker_role_held": lambda f: [f.of("worker_role_held", "worker", role=role) for role in ROLES] == [[1.0] * 3] * 4,
    "role_changes_total": lambda f: all(min(f.of("role_changes_total", "worker", role=role, cause="taken")) >= 1 for role in ROLES),
    "consumer_last_applied_position": lambda f: (
        f.of("consumer_last_applied_position", "hours-worker", consumer="views", source="hours")
        == f.of("log_head_position", "hours-worker")
    ),
    "consumer_last_applied_timestamp_seconds": lambda f: min(f.of("consumer_last_applied_timestamp_seconds")) > 1.4e9,
    "consumer_heartbeat_timestamp_seconds": lambda f: time.time() - min(f.of("consumer_heartbeat_timestamp_seconds")) < AT_REST_S,
    "consumer_events_total": lambda f: all(
        sum(f.of("consumer_events_total", "worker", result=result)) > 0 for result in ("applied", "ignored")
    ),
    "reconciliation_difference": lambda f: f.of("reconciliation_difference", "worker") == [0.0] * 5,
    "reconciliation_timestamp_seconds": lambda f: time.time() - min(f.of("reconciliation_timestamp_seconds", "worker")) < AT_REST_S,
    "db_pool_connections": lambda f: (
        min(f.of("db_pool_connections", pool="store", state="open")) >= 1
        and min(f.of("db_pool_connections", pool="worker", state="open")) >= 1
    ),
    "db_pool_wait_seconds": lambda f: all(max(f.of("db_pool_wait_seconds_count", pool=each)) > 0 for each in ("store", "reads", "worker")),
    "db_errors_total": lambda f: sum(f.of("db_errors_total", "recognition-api", pool="lane")) >= 1,
    "build_info": lambda f: f.of("build_info") == [1.0] * 6,
}
"""How each metric stands after what `volunteer` went through."""

_OUTAGE: Final = "integration/relay/test_outages.py::test_kafka_away_at_the_start_in_the_middle_without_its_data_and_at_the_end"
_FAULTS: Final = "integration/relay/test_faults.py::"
_REBUILD: Final = "integration/rebuild/test_rebuild.py::"
_VIEWS: Final = "integration/consumer/test_views.py::"
_STOPPED: Final = (
    "integration/consumer/test_parking.py::test_what_stands_still_and_what_was_given_up_is_shown_by_metrics_and_with_every_answer"
)
_PARKED: Final = f"{_VIEWS}test_parked_keys_and_due_deadlines_are_shown_and_go_when_they_are_gone"
_ERASED: Final = "integration/consumer/test_withdrawals.py::test_an_erasure_is_shown_while_it_waits_for_somebody"
_OPERATOR: Final = "e2e/test_metrics.py::test_what_an_operator_closes_and_pauses_is_shown_until_it_is_undone"

ELSEWHERE: Final[Mapping[str, str]] = {
    "denials_total": "unit/http/test_who_may_what.py::test_a_denial_is_counted",
    "relay_backlog_events": _OUTAGE,
    "relay_oldest_unpublished_timestamp_seconds": f"{_FAULTS}test_a_record_that_the_broker_refuses_holds_the_relay_but_breaks_nothing",
    "relay_republished_total": f"{_FAULTS}test_a_changed_record_counts_as_missing",
    "relay_fenced_total": f"{_FAULTS}test_a_relay_that_loses_the_race_for_a_seal_publishes_nothing",
    "topic_findings_total": f"{_FAULTS}test_a_changed_record_counts_as_missing",
    "log_recovering": f"{_FAULTS}test_a_log_that_kafka_is_ahead_of_waits_for_recovery_and_publishes_nothing",
    "producer_recreated_total": f"{_FAULTS}test_a_record_that_the_broker_refuses_holds_the_relay_but_breaks_nothing",
    "consumer_lag_events": f"{_VIEWS}test_all_roles_of_a_service_follow_its_logs_and_every_worker_shows_how_far",
    "consumer_source_contradicts": f"{_VIEWS}test_all_roles_of_a_service_follow_its_logs_and_every_worker_shows_how_far",
    "parked_keys": _PARKED,
    "parked_messages": _PARKED,
    "parked_oldest_timestamp_seconds": _PARKED,
    "deadlines_due": _PARKED,
    "erasures_open": _ERASED,
    "erasure_oldest_timestamp_seconds": _ERASED,
    "discarded_messages": _STOPPED,
    "consumer_stopped": _STOPPED,
    "projection_definition_changed": f"{_VIEWS}test_read_models_of_other_definitions_stand_still_until_they_are_rebuilt",
    "projection_rebuild_progress_ratio": f"{_REBUILD}test_a_rebuild_that_is_killed_goes_on_where_it_stood_and_workers_show_how_far_it_is",
    "ledger_imbalance_minutes": "e2e/test_metrics.py::test_a_minute_that_is_off_is_counted_and_there_is_none",
    "key_unwrap_failures_total": "integration/process/test_privacy.py::test_the_wrong_key_file_says_so_instead_of_reading_nothing",
    "log_read_only": _OPERATOR,
    "worker_role_paused": _OPERATOR,
    "retries_total": "integration/consumer/test_shell.py::test_a_database_that_goes_away_is_waited_for_and_nothing_is_lost",
}
"""What a healthy system does not do, and the test that makes it happen."""


def test_every_metric_that_is_declared_is_moved_by_a_test() -> None:
    assert HERE.keys().isdisjoint(ELSEWHERE)
    assert HERE.keys() | ELSEWHERE.keys() == {each.name for each in DEFINITIONS}


@pytest.mark.parametrize(("metric", "test"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_a_test_that_is_named_is_there_and_asks_for_the_metric(metric: str, test: str) -> None:
    file, _, name = test.partition("::")
    source = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
    _, found, rest = source.partition(f"def {name}(")
    assert found
    body = rest.partition("\n\n\n")[0]
    asks_by_a_helper = metric == "topic_findings_total" and "finding(metrics" in body
    assert metric in body or asks_by_a_helper


@pytest.mark.parametrize("metric", HERE)
@pytest.mark.usefixtures("volunteer")
async def test_a_metric_has_moved(stack: Stack, metric: str) -> None:
    assert await seen(stack, HERE[metric])


@pytest.mark.usefixtures("volunteer")
async def test_every_process_shows_every_metric_with_words_in_both_languages(stack: Stack) -> None:
    async with httpx.AsyncClient(timeout=5, verify=NO_TLS) as client:
        for name in PROCESSES:
            answer = await client.get(f"{stack.url(name)}/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            for each in DEFINITIONS:
                family = each.name.removesuffix("_total")
                assert f"# HELP {PREFIX}{each.name} {each.zh} / {each.en}\n" in answer.text, family
            assert f'service="{name.partition("-")[0]}"' in answer.text


@pytest.mark.usefixtures("volunteer")
async def test_at_rest_nobody_lags_behind_the_heads_that_the_logs_say_of_themselves(stack: Stack) -> None:
    await stack.settled()

    def nobody_lags(figures: Figures) -> bool:
        lags, backlog = figures.of("consumer_lag_events"), figures.of("relay_backlog_events", "worker")
        return max(lags) == 0 and backlog == [0.0] * 3 and max(figures.of("deadlines_due", "worker")) == 0

    assert await seen(stack, nobody_lags)
    figures = await look(stack)
    for service in SERVICES:
        expected = {(each.consumer.partition(".")[2], each.source) for each in SUBSCRIPTIONS if each.consumer.startswith(f"{service}.")} | {
            ("reactions", each.source) for each in REACTIONS[service]
        }
        assert figures.labels("consumer_lag_events", f"{service}-worker", "consumer", "source") == expected


@pytest.mark.usefixtures("volunteer")
async def test_the_heartbeat_goes_on_while_nothing_happens(stack: Stack) -> None:
    await stack.settled()
    before = await look(stack)

    def has_gone_on(figures: Figures) -> bool:
        then, now = before.of("consumer_heartbeat_timestamp_seconds"), figures.of("consumer_heartbeat_timestamp_seconds")
        return len(now) == len(then) and all(late > early for early, late in zip(then, now, strict=True))

    assert await seen(stack, has_gone_on)
    assert (await look(stack)).of("log_head_position", "worker") == before.of("log_head_position", "worker")


@pytest.mark.usefixtures("volunteer")
async def test_a_minute_that_is_off_is_counted_and_there_is_none(stack: Stack) -> None:
    assert (await look(stack)).of("ledger_imbalance_minutes", "hours-worker") == [0.0]
    assert hours.SERVICE.imbalance is not None
    connection = await asyncpg.connect(stack.dsn("hours", "admin"), timeout=5)
    change = connection.transaction()
    await change.start()
    people = await connection.fetchval("SELECT count(*) FROM views_1.balances")
    await connection.execute("UPDATE views_1.balances SET timed_minutes = timed_minutes + 1")
    assert await hours.SERVICE.imbalance(connection) == people > 0
    await change.rollback()
    assert await hours.SERVICE.imbalance(connection) == 0
    await connection.close(timeout=5)


async def test_what_an_operator_closes_and_pauses_is_shown_until_it_is_undone(stage: Stage, volunteer: Volunteer) -> None:
    stack, path = stage.stack, f"/volunteers/{volunteer.id}/stars"

    def operate(*words: str) -> None:
        asked = [python(), "-m", "services.recognition", *words, "--reason", "a drill"]
        environment = {**os.environ, **stack.environment("recognition")}
        done = subprocess.run(asked, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def shows(value: float) -> Callable[[Figures], bool]:
        return lambda figures: (
            figures.of("log_read_only", "recognition-worker") == [value]
            and figures.of("worker_role_paused", "recognition-worker", role="withdrawals") == [value]
            and figures.of("worker_role_held", "recognition-worker", role="withdrawals") == [1 - value]
        )

    operate("log", "read-only")
    operate("role", "pause", "withdrawals")
    try:
        assert await seen(stack, shows(1))
        closed = await command(stage.self_("recognition", volunteer.id), path, {"stars": 2})
        assert (closed.status_code, closed.json()["code"]) == (503, "log_closed")
        assert int(closed.headers["retry-after"]) >= 1
    finally:
        operate("role", "resume", "withdrawals")
        operate("log", "open")
    assert await seen(stack, shows(0))
    again = await command(stage.self_("recognition", volunteer.id), path, {"stars": 2})
    assert again.json()["code"] == "star_out_of_order"


async def test_every_log_line_is_json_and_says_nothing_of_the_person(stack: Stack, volunteer: Volunteer) -> None:
    for name in PROCESSES:
        text = (stack.folder / f"{name}.log").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines
        for line in lines:
            assert {"time", "level", "service", "version", "event"} <= line.keys(), line
            assert line["service"] == name.partition("-")[0]
        for secret in (volunteer.name, volunteer.id_number, volunteer.phone, "eyJ", stack.keys.database_password(line["service"])):
            assert secret not in text
    commands = [json.loads(line) for line in (stack.folder / "registration-api.log").read_text().splitlines()]
    answered = [line for line in commands if line["event"] == "command_answered"]
    assert {line["outcome"] for line in answered} >= {"accepted", "refused", "duplicate"}
    assert all({"correlation_id", "trace_id", "command", "command_id", "duration_ms"} <= line.keys() for line in answered)
