"""`python -m deploy.local up | down | reset | status | token | link | sql | compose-env | lock`; `make help` says it in fewer words."""

import argparse
import os
import sys
from pathlib import Path

from deploy.local.compose import write_compose_environment
from deploy.local.environment import ISSUER, SERVICES, read_ports
from deploy.local.jars import write_lock
from deploy.local.keys import Keys, issue_token, person_id
from deploy.local.places import Places
from deploy.local.progress import Console
from deploy.local.supervisor import down, query, reset, sign_in_link, status, up, up_detached
from deploy.local.trouble import DISK_FULL, Trouble, is_disk_full


def main(arguments: list[str]) -> int:
    """Exit code: 0 done, 1 trouble (told in one line)."""
    asked = _parser().parse_args(arguments)
    console = Console()
    try:
        return _run(asked, console)
    except Trouble as trouble:
        if str(trouble):
            console.say(f"error: {trouble}")
    except OSError as error:
        if not is_disk_full(error):
            raise
        console.say(f"error: {DISK_FULL}")
    except KeyboardInterrupt:
        pass
    return 1


def _run(asked: argparse.Namespace, console: Console) -> int:
    places = Places(asked.state.resolve())
    match asked.command:
        case "up":
            if asked.detach:
                up_detached(places, console, only_backing=asked.only_backing)
            else:
                up(places, read_ports(), console, only_backing=asked.only_backing)
        case "down":
            down(places, console)
        case "reset":
            reset(places, console)
        case "status":
            return 0 if status(places, read_ports(), console) else 1
        case "token":
            person = person_id(asked.person)
            print(issue_token(Keys(places.secrets), ISSUER, person=person, role=asked.role, unit=asked.unit, minutes=asked.minutes))
        case "link":
            print(sign_in_link(places, read_ports(), asked.person))
        case "sql":
            print(query(places, read_ports(), asked.service, asked.statement, asked.unit))
        case "compose-env":
            console.say(f"{write_compose_environment(places)} is written: `docker compose up --build` starts the containers")
        case "lock":
            console.say(f"{write_lock()} jars are in the lock")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="Kafka, PostgreSQL and the services on this machine.")
    default = Path(os.environ.get("LEIFENG_STATE", Places().state))
    parser.add_argument("--state", type=Path, default=default, help="folder of data, secrets and logs (default: .local)")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="start everything and stay")
    start.add_argument("--detach", action="store_true", help="return when all is ready")
    start.add_argument("--only-backing", action="store_true", help="broker and database, no services")
    commands.add_parser("down", help="stop everything")
    commands.add_parser("reset", help="stop, and forget data, secrets and logs")
    commands.add_parser("status", help="say what runs")
    token = commands.add_parser("token", help="print a bearer token of the local issuer")
    token.add_argument("--person", required=True, help="a name (the same name is the same person) or a UUID")
    token.add_argument("--role", required=True)
    token.add_argument("--unit", required=True, help="code of the unit")
    token.add_argument("--minutes", type=float, default=15, help="how long it lives, up to 15")
    link = commands.add_parser("link", help="print a link that signs an invented person in once")
    link.add_argument("--person", required=True, help="a name (the same name is the same person) or a UUID")
    sql = commands.add_parser("sql", help="run a statement as an admin's read-only login of a service")
    sql.add_argument("--unit", help="as the login of this unit, instead of the one that sees every unit")
    sql.add_argument("service", choices=SERVICES)
    sql.add_argument("statement", help='such as "SELECT * FROM api.freshness"')
    commands.add_parser("compose-env", help="write .env and the keys that docker-compose.yml reads")
    commands.add_parser("lock", help="resolve Kafka's jars anew and write their list")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
