"""Which ports the local stack uses, and what it tells each service: the one place that knows the names of their settings."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deploy.local.keys import Keys
from deploy.local.trouble import Trouble

HOST: Final = "127.0.0.1"
SERVICES: Final = ("registration", "hours", "recognition")
ISSUER: Final = "leifeng-local"
PORT_BASE: Final = "LEIFENG_PORT_BASE"


@dataclass(frozen=True)
class Ports:
    """Every port of the stack, all on loopback. The defaults lie below those that the kernel gives to outgoing connections."""

    postgres: int
    kafka: int
    kafka_controller: int
    api: Mapping[str, int]
    worker: Mapping[str, int]

    def named(self) -> dict[str, int]:
        """What each port is for."""
        return {
            "PostgreSQL": self.postgres,
            "Kafka": self.kafka,
            "Kafka's controller": self.kafka_controller,
            **{f"{service} api": port for service, port in self.api.items()},
            **{f"{service} worker": port for service, port in self.worker.items()},
        }

    def check_free(self) -> None:
        """Raises Trouble that names the first port somebody else listens on, and how to change it."""
        for name, port in self.named().items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # A port we have just left is free.
                try:
                    probe.bind((HOST, port))
                except OSError:
                    raise Trouble(
                        f"port {port} ({name}) is taken by another program: end that one, or choose other ports with {PORT_BASE}=20000"
                    ) from None


def read_ports(environ: Mapping[str, str] = os.environ) -> Ports:
    """The usual ports, or with LEIFENG_PORT_BASE=N the hundred ports from N on. Raises Trouble when N is no such number."""
    said = environ.get(PORT_BASE)
    if said is None:
        postgres, kafka, http = 15432, 19092, 8100
    else:
        if not said.isascii() or not said.isdigit() or not 1024 <= int(said) <= 65_400:
            raise Trouble(f"{PORT_BASE}={said} is no port between 1024 and 65400")
        postgres, kafka, http = int(said) + 32, int(said) + 92, int(said)
    return Ports(
        postgres=postgres,
        kafka=kafka,
        kafka_controller=kafka + 1,
        api={service: http + number for number, service in enumerate(SERVICES, 1)},
        worker={service: http + 10 + number for number, service in enumerate(SERVICES, 1)},
    )


def base_url(ports: Ports, service: str) -> str:
    """Where a service's pages and commands are."""
    return f"http://{HOST}:{ports.api[service]}"


def database_of(service: str) -> str:
    """Name of a service's database, and of the role that owns it."""
    return f"leifeng_{service}"


def login_of(service: str, unit: str | None) -> str:
    """The SQL login that sees a unit's rows in a service's views, or with None those of every unit."""
    return f"{database_of(service)}_all_units" if unit is None else f"{database_of(service)}_unit_{unit}"


def service_environment(service: str, ports: Ports, keys: Keys) -> dict[str, str]:
    """The settings of one service (`shared/settings.py`), by variable name."""
    database = database_of(service)
    settings = {
        "POSTGRES_DSN": f"postgresql://{database}:{keys.database_password(service)}@{HOST}:{ports.postgres}/{database}",
        "KAFKA_SERVERS": f"{HOST}:{ports.kafka}",
        "HTTP_HOST": HOST,
        "HTTP_PORT": str(ports.api[service]),
        "PUBLIC_URL": base_url(ports, service),
        "REQUESTS_PER_MINUTE_PER_ADDRESS": "0",  # One machine plays everybody.
        "REQUESTS_PER_MINUTE_PER_PERSON": "0",
        "WORKER_PORT": str(ports.worker[service]),
        "KEY_FILE": str(keys.encryption_key_file(service)),
        "TOKEN_KEYS_FILE": str(keys.issuer_public_file),
        "TOKEN_ISSUER": ISSUER,
        "CLOCK": "travel",  # So that the sample year can be played; the log goes over to the system clock when it has been.
        "SIBLINGS": json.dumps({other: base_url(ports, other) for other in SERVICES if other != service}),
    }
    if service == "registration":  # Where people sign in.
        settings["TOKEN_SIGNING_KEY_FILE"] = str(keys.issuer_private_file)
    return {f"{service.upper()}_{name}": value for name, value in settings.items()}
