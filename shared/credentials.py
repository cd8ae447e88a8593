"""How a process gets into Kafka: what every client of ours is told of it, and why Kafka does not let us in (security.md 4.2).

Secrets are read out of their files for each new client, so one that is replaced counts from the next client on. Who holds a client for
long asks now and then whether they have `changed`, and makes another.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError
from aiokafka.protocol.metadata import MetadataRequest

from shared.followed import secret_file
from shared.settings import Secured, Servers, SettingsError, check_closed

if TYPE_CHECKING:  # FastStream is a third of what a process loads at its start: only who subscribes pays for it.
    from faststream.security import BaseSecurity

MECHANISM: Final = "SCRAM-SHA-512"
ASK_SECONDS_MAX: Final = 2.0
"""For all brokers together, when they are asked why they do not let us in."""


class AccessError(KafkaConnectionError):
    """Kafka does not let this process in, or lets it do less than it needs. The text says why and what to do, and holds no secret."""

    def __str__(self) -> str:
        return " ".join(map(str, self.args))  # aiokafka's own puts a number before it.


class SecretUnreadableError(AccessError):
    """A file with a secret, a certificate or who signs them cannot be used."""


class PasswordRefusedError(AccessError):
    """There is no such user, or it has another password."""


class CertificateRefusedError(AccessError):
    """The brokers do not accept our certificate, or ask for one."""


class BrokerUntrustedError(AccessError):
    """The broker's certificate is of nobody whom we trust, of another host, or out of date."""


class ProtocolDiffersError(AccessError):
    """The broker speaks another security protocol than the settings say."""


class RightMissingError(AccessError):
    """The user is known, and may not do what it needs to do."""


def addresses(servers: Servers) -> str:
    """The bootstrap addresses, host:port, comma-separated."""
    return servers.servers if isinstance(servers, Secured) else servers


def client_settings(servers: Servers) -> dict[str, Any]:
    """What a client of aiokafka is told of where Kafka is and how to get in. Raises SecretUnreadableError."""
    if isinstance(servers, str):
        return {"bootstrap_servers": servers}
    said: dict[str, Any] = {"bootstrap_servers": servers.servers, "security_protocol": servers.protocol, "ssl_context": _context(servers)}
    if servers.protocol == "SASL_SSL":
        said |= {"sasl_mechanism": MECHANISM, "sasl_plain_username": servers.user, "sasl_plain_password": _password(servers)}
    return said


def faststream_security(servers: Servers) -> "BaseSecurity | None":
    """The same, as FastStream is told. Raises SecretUnreadableError."""
    from faststream.security import BaseSecurity, SASLScram512

    if isinstance(servers, str):
        return None
    context = _context(servers)
    if servers.protocol == "SSL":
        return BaseSecurity(ssl_context=context, use_ssl=True)
    return SASLScram512(username=servers.user or "", password=_password(servers), ssl_context=context, use_ssl=True)


Stamp = Sequence[tuple[int, int] | None]
"""When each of the files was last replaced."""


def stamp(servers: Servers) -> Stamp:
    """Tells whether a client made now would be told the same as one made when this was asked before."""
    return () if isinstance(servers, str) else [_changed_at(each) for each in _files(servers)]


async def why_not(servers: Servers) -> AccessError | None:
    """Asks the brokers, one after the other, why a client was not let in; None when one lets us in, or nobody answers.

    A client of aiokafka says of each of these only that it could not connect (0.14).
    """
    try:
        settings = client_settings(servers)
    except AccessError as error:
        return error
    settings.pop("bootstrap_servers")
    why: AccessError | None = None
    try:
        async with asyncio.timeout(ASK_SECONDS_MAX):
            for address in addresses(servers).split(","):
                host, _, port = address.strip().rpartition(":")
                try:
                    connection = await create_conn(host, int(port), **settings)
                    try:
                        await connection.send(MetadataRequest([]))  # A listener that wants a user hangs up at the first question.
                    finally:
                        connection.close()
                except (OSError, KafkaError, ValueError) as error:
                    why = why or _reason(servers, address.strip(), error)
                else:
                    return None
    except TimeoutError:
        pass
    return why


def _reason(servers: Servers, address: str, error: Exception) -> AccessError | None:
    if isinstance(servers, str):
        if isinstance(error, KafkaConnectionError):  # It hung up before it said a word.
            return ProtocolDiffersError(f"{address} does not speak PLAINTEXT: set KAFKA_SECURITY_PROTOCOL, with a user or a certificate")
        return None
    signers = "those whom this machine trusts" if servers.ca_file is None else f"{servers.ca_file.name} (KAFKA_CA_FILE)"
    match error:
        case SaslAuthenticationFailed():
            file = "" if servers.password_file is None else servers.password_file.name
            return PasswordRefusedError(f"Kafka has no user {servers.user} with the password in {file} (KAFKA_USER, KAFKA_PASSWORD_FILE)")
        case UnsupportedSaslMechanismError():
            return ProtocolDiffersError(f"{address} does not take {MECHANISM}: enable it for this listener")
        case ssl.SSLCertVerificationError():
            return BrokerUntrustedError(f"the certificate of {address} does not hold against {signers}: {error.verify_message}")
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            return CertificateRefusedError(f"{address} does not accept our certificate, or wants one (KAFKA_CERTIFICATE_FILE)")
        case ssl.SSLError():
            return ProtocolDiffersError(f"{address} does not speak TLS, KAFKA_SECURITY_PROTOCOL says {servers.protocol}")
        case KafkaConnectionError() | ConnectionResetError() if servers.protocol == "SSL":
            return CertificateRefusedError(f"{address} hangs up: it does not accept our certificate, or wants SASL_SSL")
        case KafkaConnectionError() | ConnectionResetError():
            return ProtocolDiffersError(f"{address} hangs up on {servers.protocol}: does this listener speak it, or want a certificate?")
        case ValueError():  # Of SCRAM: the server does not know the password either.
            return BrokerUntrustedError(f"{address} could not prove that it knows the user {servers.user}")
        case _:
            return None


def _context(servers: Secured) -> ssl.SSLContext:
    """TLS 1.2 or newer, the broker's certificate and name verified."""
    try:
        context = ssl.create_default_context(cafile=servers.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if servers.certificate_file is not None and servers.certificate_key_file is not None:
            check_closed(servers.certificate_key_file)
            context.load_cert_chain(servers.certificate_file, servers.certificate_key_file, password=_no_passphrase)
    except SettingsError as error:
        raise SecretUnreadableError(str(error)) from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError.
        names = [each.name for each in (servers.ca_file, servers.certificate_file, servers.certificate_key_file) if each is not None]
        raise SecretUnreadableError(f"{', '.join(names)} cannot be used as PEM files: {type(error).__name__}") from None
    return context


def _no_passphrase() -> str:
    """Else OpenSSL would ask for it on the terminal."""
    raise ValueError("the private key is encrypted")


def _password(servers: Secured) -> str:
    if servers.password_file is None:
        raise SecretUnreadableError("no file with a password is named (KAFKA_PASSWORD_FILE)")
    try:
        return secret_file(servers.password_file).look()
    except SettingsError as error:
        raise SecretUnreadableError(str(error)) from None


def _files(servers: Secured) -> Sequence[Path]:
    named = (servers.password_file, servers.ca_file, servers.certificate_file, servers.certificate_key_file)
    return [each for each in named if each is not None]


def _changed_at(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # Just being replaced.
    return status.st_mtime_ns, status.st_ino
