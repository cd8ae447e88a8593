"""A real Prometheus reads our processes, answers questions about them, and loads the rules."""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.http.probes import probes
from shared.http.serve import serve
from shared.metrics import Metrics
from tests.loopback import NO_TLS

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "rules.yml"

prometheus = shutil.which("prometheus")
pytestmark = pytest.mark.skipif(prometheus is None, reason="Prometheus is not on this machine (Debian package prometheus)")

CONFIGURATION = """
global: {{scrape_interval: 250ms, scrape_timeout: 200ms, evaluation_interval: 250ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: leifeng-worker
    static_configs:
      - {{targets: ["127.0.0.1:{target}"], labels: {{process: hours-worker}}}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def yes() -> bool:
    return True


@pytest.fixture
async def metrics_and_address(tmp_path: Path) -> AsyncIterator[tuple[Metrics, str]]:
    """The metrics of a process that is scraped, and where Prometheus answers."""
    metrics, stop = Metrics("hours", "1.2.3"), asyncio.Event()
    target, port = free_port(), free_port()
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(CONFIGURATION.format(rules=RULES, target=target))
    serving = asyncio.create_task(serve(probes(metrics, alive=lambda: True, ready=yes), "127.0.0.1", target, stop))
    process = await asyncio.create_subprocess_exec(
        str(prometheus),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    )
    yield metrics, f"http://127.0.0.1:{port}"
    process.terminate()
    await asyncio.wait_for(process.wait(), 20)
    stop.set()
    await asyncio.wait_for(serving, 20)


async def answered(client: httpx.AsyncClient, address: str, question: str, value: str) -> list[dict[str, Any]]:
    """What Prometheus says once it says `value`; it scrapes four times a second."""
    async with asyncio.timeout(20):
        while True:
            try:
                found: list[dict[str, Any]] = (await client.get(f"{address}/api/v1/query", params={"query": question})).json()["data"][
                    "result"
                ]
                if [each["value"][1] for each in found] == [value]:
                    return found
            except (httpx.TransportError, json.JSONDecodeError, KeyError):
                pass  # It is still starting.
            await asyncio.sleep(0.1)


async def test_a_metric_that_moves_is_seen_to_move_and_an_alert_follows_it(metrics_and_address: tuple[Metrics, str]) -> None:
    metrics, address = metrics_and_address
    async with httpx.AsyncClient(timeout=2, trust_env=False, verify=NO_TLS) as client:
        await answered(client, address, "up", "1")
        metrics.events_appended_total.labels("hours.checked_in").inc(3)
        (counted,) = await answered(client, address, "leifeng_events_appended_total", "3")
        assert {name: counted["metric"][name] for name in ("service", "process", "type")} == {
            "service": "hours",
            "process": "hours-worker",
            "type": "hours.checked_in",
        }
        metrics.ledger_imbalance_minutes.set(-5)
        (alert,) = await answered(client, address, 'ALERTS{alertname="LedgerIsOutOfBalance"}', "1")
        assert alert["metric"]["alertstate"] == "pending"
