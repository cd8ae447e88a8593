"""What a process is told from outside: one frozen class, read once at start from variables with the service's prefix (`HOURS_...`).

There is no default for an address or a secret; what is missing is named, each in one line.
"""

import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """The process cannot start; the text has one line for each setting that is missing or wrong, and no value."""


PASSWORD_FILE: Final = "password_file"  # noqa: S105  # A name.
"""The parameter of a database's address that names the file with the password."""

SECRET_FILES: Final = (
    "key_file", "token_signing_key_file", "oidc_client_secret_file", "postgres_password_file", "kafka_password_file",
    "kafka_certificate_key_file",
)  # fmt: skip
"""The settings that name a file with a secret: none of them may be open to everybody on the machine."""

_KAFKA_NEEDS: Final = {
    "PLAINTEXT": ((), ("kafka_user", "kafka_password_file", "kafka_ca_file", "kafka_certificate_file", "kafka_certificate_key_file")),
    "SASL_SSL": (("kafka_user", "kafka_password_file"), ()),
    "SSL": (("kafka_certificate_file", "kafka_certificate_key_file"), ("kafka_user", "kafka_password_file")),
}
"""By security protocol: the settings that it needs, and those that would be of no effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A Kafka that asks who one is, and how this process says it. Holds names of files only, never what is in them."""

    servers: str
    protocol: Literal["SASL_SSL", "SSL"]
    user: str | None
    password_file: Path | None
    ca_file: Path | None
    certificate_file: Path | None
    certificate_key_file: Path | None


Servers = str | Secured
"""Where Kafka is: the bootstrap addresses alone, where nobody is asked who they are, or with how to get in."""


class Settings(BaseSettings):
    """Settings of one service. Read with `read_settings`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False)

    postgres_dsn: SecretStr = Field(
        description="address of the service's own database, as its owner role; ?sslmode=verify-full&sslrootcert=<file> for TLS"
    )
    postgres_password_file: Path | None = Field(
        default=None, description="file with the password of that role, which the address then need not hold; read again when it changes"
    )
    kafka_servers: str = Field(
        description="bootstrap addresses, host:port, comma-separated; name three brokers and each topic gets three copies"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SASL_SSL", "SSL"] = Field(
        default="PLAINTEXT",
        description="SASL_SSL: by user and password (SCRAM-SHA-512) over TLS; SSL: by a client certificate; PLAINTEXT: nobody is asked",
    )
    kafka_user: str | None = Field(default=None, description="with SASL_SSL: as whom; `acls print` says which rights that user needs")
    kafka_password_file: Path | None = Field(
        default=None, description="with SASL_SSL: file with that user's password; read again when it changes"
    )
    kafka_ca_file: Path | None = Field(
        default=None, description="PEM file with who signed the brokers' certificates; when missing, whom this machine trusts"
    )
    kafka_certificate_file: Path | None = Field(
        default=None, description="PEM file with our own certificate and its chain: needed with SSL, and with SASL_SSL where brokers ask"
    )
    kafka_certificate_key_file: Path | None = Field(default=None, description="PEM file with the private key that goes with it")
    topic_prefix: str = Field(default="", description="put before every topic name, so that installations can share a cluster")
    http_host: str = Field(description="address the processes listen on")
    http_port: int = Field(ge=0, le=65535, description="port of the api process")
    worker_port: int = Field(ge=0, le=65535, description="port of the worker's probes and metrics")
    key_file: Path = Field(description="file with the key-encryption keys, each of 64 hexadecimal digits on a line, the one in use first")
    cipher: Literal["aes-256-gcm", "sm4-gcm"] = Field(
        default="aes-256-gcm", description="what new personal texts are sealed with; what was sealed with the other is read all the same"
    )
    erasures_file: Path | None = Field(
        default=None,
        description="list of who was erased, on another disk than the database: `erasures export` writes, `recover` reads it",
    )
    reads_file: Path | None = Field(
        default=None,
        description="heads of the chain of reads of personal data, on another disk than the database: a line a day, and `reads publish`",
    )
    token_keys_file: Path = Field(description="JWKS file with the public keys of the token issuer")
    token_issuer: str = Field(description="the `iss` that tokens must name")
    requests_per_minute_per_address: int = Field(default=3000, ge=0, description="for one address in one process; 0 for no limit")
    requests_per_minute_per_person: int = Field(default=600, ge=0, description="for one person or device in one process; 0 for no limit")
    proxies: tuple[str, ...] = Field(default=(), description="JSON list: networks of our proxies, whose X-Forwarded-For is believed")
    token_signing_key_file: Path | None = Field(
        default=None, description="private JWK of the token issuer, where people sign in (registration)"
    )
    public_url: str = Field(default="", description="where browsers reach the api process, https://...; http_host and http_port when empty")
    oidc_issuer: str | None = Field(default=None, description="the bureau's OpenID Connect provider, as its tokens name it")
    oidc_audience: str = Field(default="leifeng", description="the `aud` that the provider's access tokens must name")
    oidc_client_id: str | None = Field(default=None, description="as what registration is known to the provider")
    oidc_client_secret_file: Path | None = Field(default=None, description="file with the secret that goes with it, if it has one")
    clock: Literal["system", "travel"] = Field(default="system", description="travel only in the local stack and in tests")
    siblings: Mapping[str, str] = Field(default_factory=dict, description="JSON object: the other services' pages, name to base URL")

    @property
    def dsn(self) -> str:
        """The database's address for `shared/postgres.py`, which reads the password out of the file for each new connection."""
        dsn = self.postgres_dsn.get_secret_value()
        if self.postgres_password_file is None:
            return dsn
        return f"{dsn}{'&' if '?' in dsn else '?'}{PASSWORD_FILE}={quote(str(self.postgres_password_file), safe='')}"

    @property
    def kafka(self) -> Servers:
        """Where Kafka is, and how this process gets in."""
        if self.kafka_security_protocol == "PLAINTEXT":
            return self.kafka_servers
        return Secured(
            servers=self.kafka_servers,
            protocol=self.kafka_security_protocol,
            user=self.kafka_user,
            password_file=self.kafka_password_file,
            ca_file=self.kafka_ca_file,
            certificate_file=self.kafka_certificate_file,
            certificate_key_file=self.kafka_certificate_key_file,
        )


_make: Final[Callable[..., Settings]] = Settings  # `_env_prefix` is a keyword of BaseSettings that type checkers do not see.


def read_settings(service: str) -> Settings:
    """The settings of `service` from the environment. Raises SettingsError naming every variable that is missing or wrong."""
    prefix = f"{service.upper()}_"
    try:
        settings = _make(_env_prefix=prefix)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            field = str(problem["loc"][0])
            told = "is missing" if problem["type"] == "missing" else f"is wrong ({problem['msg']})"
            lines.append(f"{prefix}{field.upper()} {told}: {Settings.model_fields[field].description}")
        raise SettingsError("\n".join(lines)) from None
    if lines := [f"{prefix}{field.upper()} {told}" for field, told in _at_odds(settings)]:
        raise SettingsError("\n".join(lines))
    return settings


def _at_odds(settings: Settings) -> Iterator[tuple[str, str]]:
    """Settings that do not go together, and files with a secret that are open to everybody."""
    protocol = settings.kafka_security_protocol
    needed, idle = _KAFKA_NEEDS[protocol]
    for field in needed:
        if getattr(settings, field) is None:
            yield field, f"is missing with {protocol}: {Settings.model_fields[field].description}"
    for field in idle:
        if getattr(settings, field) is not None:
            yield field, f"has no effect with {protocol}: take it away, or set KAFKA_SECURITY_PROTOCOL"
    if (settings.kafka_certificate_file is None) != (settings.kafka_certificate_key_file is None):
        yield "kafka_certificate_file", "and ..._KEY_FILE go together: a certificate is of no use without its key"
    for field in SECRET_FILES:
        path: Path | None = getattr(settings, field)
        if path is not None:
            try:
                check_closed(path)
            except SettingsError as error:
                yield field, f"is wrong: {error}"
            except OSError:  # Who reads it says so.
                continue


def check_closed(path: Path) -> None:
    """Raises SettingsError for a file that everybody on this machine may read or write, and OSError for one that is not there."""
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SettingsError(f"{path.name} is open to everybody on this machine: chmod 600")


def read_secret(path: Path) -> str:
    """The line in `path`, a file that others cannot read. Raises SettingsError."""
    try:
        check_closed(path)
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path.name} cannot be read: {type(error).__name__}") from None
