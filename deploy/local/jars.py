"""Apache Kafka's jars: fetched once by their Maven coordinates, and checked against the committed list at every start.

`kafka.lock` has one line for each jar: coordinates, SHA-256, size in bytes. The resolver only warns about a wrong checksum, and checks it
against what the same server says; the list is ours.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.progress import MEGABYTE, Console, Download
from deploy.local.trouble import Trouble

LOCK: Final = Path(__file__).with_name("kafka.lock")
WANTED: Final = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
_AT_ONCE: Final = 4
_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """As the repository calls it."""
        return f"{self.artifact}-{self.version}.jar"


def read_lock(lock: Path = LOCK) -> tuple[Jar, ...]:
    """The jars of the lock. Raises Trouble when a line is not `group:artifact:version sha256 size`."""
    jars = []
    for number, line in enumerate(lock.read_text(encoding="ascii").splitlines(), 1):
        if line and not line.startswith("#"):
            try:
                coordinates, sha256, size = line.split()
                group, artifact, version = coordinates.split(":")
                jars.append(Jar(group, artifact, version, sha256, int(size)))
            except ValueError:
                raise Trouble(f"{lock.name} line {number} is not `group:artifact:version sha256 size`") from None
    return tuple(jars)


def class_path(directory: Path, console: Console, lock: Path = LOCK) -> str:
    """Every jar of the lock, in `directory` and checked; fetches what is missing. `KAFKA_HOME` puts an installed Kafka in their place.

    Raises Trouble: no network, a wrong checksum, a jar that nobody has.
    """
    if home := os.environ.get("KAFKA_HOME"):
        installed = sorted(Path(home, "libs").glob("*.jar"))
        if not installed:
            raise Trouble(f"KAFKA_HOME={home} has no libs/*.jar: it is not an installed Kafka")
        return os.pathsep.join(map(str, installed))
    jars = read_lock(lock)
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory / "fetch.lock"):
        missing = [jar for jar in jars if not _sound(directory / "jars" / jar.file_name, jar)]
        if missing:
            _fetch(missing, directory, console)
    return os.pathsep.join(str(directory / "jars" / jar.file_name) for jar in jars)


def _sound(path: Path, jar: Jar) -> bool:
    """Whether a jar is there. Raises Trouble when it is there and is not what the lock says."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise Trouble(f"{jar.file_name} has SHA-256 {found}, the lock says {jar.sha256}: it is not used; delete {path} to fetch it again")
    return True


def _fetch(missing: Sequence[Jar], directory: Path, console: Console) -> None:
    import requests
    from jgo.maven import MavenContext, PythonResolver

    total = sum(jar.size for jar in missing)
    console.say(f"fetching {len(missing)} jars of Apache Kafka, {total / MEGABYTE:.0f} MB (the first time only)")
    download = Download(console, "Apache Kafka", total)

    @contextlib.contextmanager
    def follow(_name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield download.add

    arriving = directory / "arriving"
    shutil.rmtree(arriving, ignore_errors=True)
    (directory / "jars").mkdir(exist_ok=True)
    maven = MavenContext(resolver=PythonResolver(progress_callback=follow), repo_cache=arriving, timeout=_TIMEOUT_S)

    def fetch(jar: Jar) -> None:
        came = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
        _sound(came, jar)
        came.replace(directory / "jars" / jar.file_name)

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for _ in pool.map(fetch, missing):
            pass
    except requests.RequestException as error:
        raise Trouble(
            f"Apache Kafka could not be fetched ({type(error).__name__}): the first start needs a network; "
            "behind a proxy set HTTPS_PROXY, or set KAFKA_HOME to an installed Kafka 4.3"
        ) from None
    except RuntimeError as error:
        raise Trouble(f"Apache Kafka could not be fetched: {str(error).splitlines()[0]}") from None
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(arriving, ignore_errors=True)


def write_lock(lock: Path = LOCK) -> int:
    """Resolve Kafka's dependencies anew and write the lock; the number of jars. For the developer who changes the version."""
    import tempfile

    from jgo.maven import MavenContext, PythonResolver

    with tempfile.TemporaryDirectory() as cache:
        maven = MavenContext(resolver=PythonResolver(), repo_cache=Path(cache), timeout=_TIMEOUT_S)
        asked, followed = maven.resolver.resolve([maven.create_dependency(wanted) for wanted in WANTED])
        lines = []
        for dependency in (*asked, *followed):
            jar = dependency.artifact.resolve().read_bytes()
            coordinates = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
            lines.append(f"{coordinates} {hashlib.sha256(jar).hexdigest()} {len(jar)}\n")
    title = "# group:artifact:version SHA-256 bytes. Made by `python -m deploy.local lock`.\n"
    lock.write_text(title + "".join(sorted(lines)), encoding="ascii")
    return len(lines)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Of two starts at once (a test run beside `make up`) one does what needs doing once, and the other waits for it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
