"""A base backup of a whole PostgreSQL, taken while it works, and the server brought back to it."""

import os
import shutil
import subprocess
from pathlib import Path

from deploy.local.postgres import HOST, SUPERUSER, LocalPostgres, installed_programs


def base_backup(server: LocalPostgres, into: Path) -> Path:
    """A physical copy of the running server, in a new folder `into`."""
    program = installed_programs() / "pg_basebackup"
    where = ("-h", HOST, "-p", str(server.port), "-U", SUPERUSER, "-D", into)
    done = subprocess.run(
        [program, *where, "--wal-method=fetch", "--checkpoint=fast", "--no-sync"], env={**os.environ, "PGPASSWORD": server.password},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return into


def restore(server: LocalPostgres, backup: Path) -> None:
    """Puts the copy in the place of the server's data, as a recovery to a point in time does: it goes on under a new timeline."""
    owner = server.data.stat()
    server.kill()
    shutil.rmtree(server.data)
    shutil.copytree(backup, server.data)
    (server.data / "recovery.signal").touch()
    with (server.data / "postgresql.auto.conf").open("a", encoding="ascii") as settings:
        settings.write("restore_command = 'false'\nrecovery_target_action = 'promote'\n")
    for folder, _, files in os.walk(server.data):
        for path in (Path(folder), *(Path(folder, each) for each in files)):
            os.chown(path, owner.st_uid, owner.st_gid)
    server.data.chmod(0o700)
    server.start()
