"""What docker-compose.yml reads from `.env`: passwords, and where the key files are."""

import os
from pathlib import Path
from typing import Final

from deploy.local.environment import SERVICES
from deploy.local.keys import Keys
from deploy.local.places import CHECKOUT, Places

_IMAGE_USER: Final = 10001


def write_compose_environment(places: Places, checkout: Path = CHECKOUT) -> Path:
    """Make the secrets of the containers, once, apart from those of `make up`; write `.env` beside docker-compose.yml, closed to others."""
    directory = places.state / "docker"
    keys = Keys(directory)
    files = [keys.issuer_public_file, keys.issuer_private_file, *(keys.encryption_key_file(service) for service in SERVICES)]
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:  # No container runs as root: the keys go to the image's own user.
        uid = gid = _IMAGE_USER
        for path in (directory, *files):
            os.chown(path, uid, gid)
    lines = {
        "LEIFENG_USER": f"{uid}:{gid}",
        "LEIFENG_KEYS": str(directory),
        "ADMIN_PASSWORD": keys.admin_password(),
        "KAFKA_CLUSTER_ID": keys.cluster_id(),
        **{f"{service.upper()}_PASSWORD": keys.database_password(service) for service in SERVICES},
    }
    new = checkout / ".env.new"
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123  # Closed from the start.
        file.writelines(f"{name}={value}\n" for name, value in lines.items())
    return new.replace(checkout / ".env")
