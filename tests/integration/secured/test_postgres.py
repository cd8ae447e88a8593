"""PostgreSQL by TLS: the server proves itself, and the password is what the file says when a connection is made."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from deploy.local.postgres import HOST, LocalPostgres
from shared.postgres import ABSENT, connect, open_pool
from tests.integration.secured.authority import Authority
from tests.integration.secured.conftest import secret

SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""How a client of PostgreSQL asks for TLS."""


@dataclass(frozen=True)
class Encrypted:
    """A server behind TLS, and a role of it."""

    server: LocalPostgres
    port: int
    authority: Authority
    password_file: Path

    def address(self, host: str = HOST, ca_file: Path | None = None) -> str:
        """As `Settings.dsn` gives it."""
        said = f"sslmode=verify-full&sslrootcert={ca_file or self.authority.ca_file}&password_file={self.password_file}"
        return f"postgresql://invented@{host}:{self.port}/postgres?{said}"

    def set_password(self, password: str) -> None:
        self.server.execute(f"ALTER ROLE invented PASSWORD '{password}'")


@pytest.fixture
async def encrypted(own_postgres: Callable[..., LocalPostgres], tmp_path: Path) -> AsyncIterator[Encrypted]:
    """Its certificate is good for 127.0.0.1 and no other name. The server's build knows no TLS: what speaks it stands before it."""
    server = own_postgres(fsync=False)
    server.execute("CREATE ROLE invented LOGIN PASSWORD 'hush-first'")
    authority = Authority(tmp_path / "authority", "Invented CA")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("postgres", HOST))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == SSL_REQUEST  # Whoever begins in plain text gets no further.
        writer.write(b"S")
        try:
            await writer.start_tls(context)
            to_read, to_write = await asyncio.open_connection(HOST, server.port)
            await asyncio.gather(carry(reader, to_write), carry(to_read, writer))
        except OSError:  # The client did not believe the certificate.
            writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as door:
        yield Encrypted(server, door.sockets[0].getsockname()[1], authority, secret(tmp_path / "password", "hush-first"))
        door.close()


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything, one way, to its end."""
    with contextlib.suppress(OSError):
        while said := await reader.read(65536):
            writer.write(said)
            await writer.drain()
    writer.close()


async def test_the_connection_is_encrypted_and_its_password_comes_from_the_file(encrypted: Encrypted) -> None:
    connection = await connect(encrypted.address(), "test")
    assert await connection.fetchval("SELECT current_user") == "invented"
    await connection.close()


async def test_a_server_of_another_authority_or_another_name_is_not_believed(encrypted: Encrypted, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "Another CA")
    for address in (encrypted.address(ca_file=stranger.ca_file), encrypted.address(host="localhost")):
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await connect(address, "test")
        assert isinstance(caught.value, ABSENT)
        assert "hush" not in repr(caught.value)


async def test_a_pool_takes_the_new_password_for_its_next_connection(encrypted: Encrypted) -> None:
    async with open_pool(encrypted.address(), "test", 1) as pool:
        await pool.fetchval("SELECT 1")
        encrypted.set_password("hush-second")
        await pool.expire_connections()
        with pytest.raises(asyncpg.InvalidPasswordError) as caught:
            await pool.fetchval("SELECT 1")
        assert "hush" not in str(caught.value)
        secret(encrypted.password_file.with_name("new"), "hush-second").replace(encrypted.password_file)
        assert await pool.fetchval("SELECT 1") == 1
