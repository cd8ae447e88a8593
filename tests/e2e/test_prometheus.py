"""A real Prometheus with the configuration of deploy/prometheus reads all six processes, and answers what an operator asks."""

import asyncio
import contextlib
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from deploy.local.environment import HOST, SERVICES, read_ports
from tests.e2e.stack import Stack
from tests.e2e.stage import Stage
from tests.loopback import NO_TLS

FOLDER: Final = Path(__file__).parents[2] / "deploy" / "prometheus"
PROCESSES: Final = {f"{service}-{kind}" for service in SERVICES for kind in ("api", "worker")}

prometheus = shutil.which("prometheus")
pytestmark = [
    pytest.mark.skipif(prometheus is None, reason="Prometheus is not on this machine (Debian package prometheus)"),
    pytest.mark.timeout(300),
]


def configuration_for(stack: Stack) -> dict[str, Any]:
    """The configuration as it is delivered, with this stack's ports, and looking more often."""
    ports = dict(zip(read_ports({}).named().values(), stack.ports.named().values(), strict=True))
    text = re.sub(rf"(?<={re.escape(HOST)}:)\d+", lambda found: str(ports[int(found[0])]), (FOLDER / "prometheus.yml").read_text())
    configuration: dict[str, Any] = yaml.safe_load(text)
    configuration["global"] = {"scrape_interval": "500ms", "scrape_timeout": "450ms", "evaluation_interval": "500ms"}
    configuration["rule_files"] = [str(FOLDER / file) for file in configuration["rule_files"]]
    return configuration


class Asked:
    """A Prometheus that can be asked."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def __call__(self, question: str) -> dict[str, float]:
        """The value of each series, by process, or by service where the process is summed away."""
        found = (await self._client.get("/api/v1/query", params={"query": question})).json()["data"]["result"]
        return {each["metric"].get("process", each["metric"].get("service", "")): float(each["value"][1]) for each in found}

    async def until(self, question: str, expected: dict[str, float]) -> None:
        """Waits for an answer. It fails with the last one."""
        last: dict[str, float] = {}
        try:
            async with asyncio.timeout(60):
                while last != expected:
                    with contextlib.suppress(httpx.TransportError, json.JSONDecodeError, KeyError):  # It may still be starting.
                        last = await self(question)
                    await asyncio.sleep(0.2)
        except TimeoutError:
            assert last == expected, question

    async def rules(self) -> list[dict[str, Any]]:
        """The rules, once each has been evaluated."""
        async with asyncio.timeout(30):
            while True:
                groups = (await self._client.get("/api/v1/rules")).json()["data"]["groups"]
                found = [rule for group in groups for rule in group["rules"]]
                if found and all(rule["health"] != "unknown" for rule in found):
                    return found
                await asyncio.sleep(0.2)


@pytest.fixture
async def asked(stage: Stage, stack: Stack, tmp_path: Path) -> AsyncIterator[Asked]:
    """It runs beside a stack that has something to tell: `stage` has adopted programme and policies."""
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration_for(stack)), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        str(prometheus),
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={HOST}:{port}",
        "--log.level=error",
    )
    async with httpx.AsyncClient(base_url=f"http://{HOST}:{port}", timeout=5, trust_env=False, verify=NO_TLS) as client:
        yield Asked(client)
    process.terminate()
    await asyncio.wait_for(process.wait(), 20)


async def test_every_process_is_read_and_lag_is_known_of_every_consumer(asked: Asked) -> None:
    await asked.until("up", dict.fromkeys(PROCESSES, 1.0))
    await asked.until('sum by (process) (leifeng_worker_role_held{process=~".+-worker"})', {f"{each}-worker": 4.0 for each in SERVICES})
    await asked.until("max by (service) (leifeng_consumer_lag_events)", dict.fromkeys(SERVICES, 0.0))
    await asked.until("max by (service) (leifeng_log_head_position) > bool 0", dict.fromkeys(SERVICES, 1.0))
    await asked.until('sum by (service) (leifeng_command_outcomes_total{outcome="accepted"}) > bool 0', dict.fromkeys(SERVICES, 1.0))
    await asked.until("max by (service) (abs(leifeng_ledger_imbalance_minutes))", dict.fromkeys(SERVICES, 0.0))


async def test_every_rule_is_evaluated_and_none_fires_on_a_sound_system(asked: Asked, stack: Stack) -> None:
    await asked.until("up", dict.fromkeys(PROCESSES, 1.0))
    rules = await asked.rules()
    assert {rule["name"] for rule in rules} == set(re.findall(r"- alert: (\w+)", (FOLDER / "rules.yml").read_text(encoding="utf-8")))
    # Requests made up from the documents may have left an erasure open, and this clock travels by days: that one is overdue indeed.
    waiting = await stack.sql("registration", "SELECT volunteer_id FROM api.erasures WHERE state IN ('requested', 'erased')")
    firing = {rule["name"] for rule in rules if (rule["health"], rule["state"]) != ("ok", "inactive")}
    assert firing - ({"ErasureIsOverdue"} if waiting else set()) == set()


async def test_every_metric_of_a_rule_stands_on_the_pages_that_are_read(stage: Stage, stack: Stack) -> None:
    async with httpx.AsyncClient(timeout=5, trust_env=False, verify=NO_TLS) as client:
        pages = [(await client.get(f"{stack.url(name)}/metrics")).text for name in sorted(PROCESSES)]
    told = set(re.findall(r"^# TYPE (leifeng_\w+)", "\n".join(pages), re.MULTILINE))
    named = re.findall(r"leifeng_\w+", (FOLDER / "rules.yml").read_text(encoding="utf-8"))
    assert {each.removesuffix("_bucket") for each in named} <= told  # A histogram stands in a rule by its buckets.
