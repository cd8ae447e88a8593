"""What a process is told from outside: one frozen class, read once at start from variables with the service's prefix (`HOURS_...`).

There is no default for an address or a secret; what is missing is named, each in one line.
"""

import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class SettingsError(Exception):
    """The process cannot start; the text has one line for each setting that is missing or wrong, and no value."""


class Settings(BaseSettings):
    """Settings of one service. Read with `read_settings`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", case_sensitive=False)

    postgres_dsn: SecretStr = Field(description="address of the service's own database, as its owner role")
    kafka_servers: str = Field(
        description="bootstrap addresses, host:port, comma-separated; name three brokers and each topic gets three copies"
    )
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


_make: Final[Callable[..., Settings]] = Settings  # `_env_prefix` is a keyword of BaseSettings that type checkers do not see.


def read_settings(service: str) -> Settings:
    """The settings of `service` from the environment. Raises SettingsError naming every variable that is missing or wrong."""
    prefix = f"{service.upper()}_"
    try:
        return _make(_env_prefix=prefix)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_input=False, include_url=False):
            field = str(problem["loc"][0])
            told = "is missing" if problem["type"] == "missing" else f"is wrong ({problem['msg']})"
            lines.append(f"{prefix}{field.upper()} {told}: {Settings.model_fields[field].description}")
        raise SettingsError("\n".join(lines)) from None


def read_secret(path: Path) -> str:
    """The line in `path`, a file that others cannot read. Raises SettingsError."""
    try:
        if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            raise SettingsError(f"{path.name} is open to everybody on this machine: chmod 600")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path.name} cannot be read: {type(error).__name__}") from None
