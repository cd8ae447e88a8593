"""The harness's own tool: what an edge does to what passes, and that it does it once and no more."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

import pytest

from deploy.local.kafka import HOST, free_ports
from tests.faults.proxy import CUT, Proxies, Proxy, Rules
from tests.faults.system import until

WITHIN_S = 5.0
SOON_S = 0.3
"""Long enough to have come, were it not held."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    made = Proxies(tmp_path_factory.mktemp("proxy"), seed=3)
    yield made
    made.close()


@pytest.fixture
async def heard() -> list[bytes]:
    """What the server behind the edge has heard, piece by piece."""
    return []


@pytest.fixture
async def edge(proxies: Proxies, heard: list[bytes], request: pytest.FixtureRequest) -> AsyncIterator[Proxy]:
    """An edge to a server that says back what it hears."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while said := await reader.read(65_536):
                heard.append(said)
                writer.write(said)
            writer.write(b"bye")
        except ConnectionError:
            heard.append(b"reset")
        finally:
            writer.close()

    server = await asyncio.start_server(echo, HOST, 0)
    yield proxies.edge(request.node.name, server.sockets[0].getsockname()[1])
    server.close()


@asynccontextmanager
async def connected(edge: Proxy) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection(HOST, edge.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def says_back(ends: Ends, said: bytes) -> float:
    """The seconds until all of it has come back."""
    began = monotonic()
    ends[1].write(said)
    assert await asyncio.wait_for(ends[0].readexactly(len(said)), WITHIN_S) == said
    return monotonic() - began


async def is_quiet(ends: Ends) -> bool:
    try:
        await asyncio.wait_for(ends[0].read(1), SOON_S)
    except TimeoutError:
        return True
    return False


async def is_reset(ends: Ends) -> None:
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ends[0].readexactly(1), WITHIN_S)


async def test_a_good_wire_passes_everything_and_the_end_of_each_side(edge: Proxy) -> None:
    async with connected(edge) as ends:
        await says_back(ends, bytes(range(256)) * 4000)
        ends[1].write_eof()
        assert await asyncio.wait_for(ends[0].read(), WITHIN_S) == b"bye"
    await until(lambda: edge.seen().open == 0, WITHIN_S, "the end")
    assert edge.seen().accepted == 1


async def test_what_is_delayed_comes_late_and_in_order(edge: Proxy) -> None:
    async with connected(edge) as ends:
        edge.rule(Rules(delay_s=0.2, jitter_s=0.1))
        assert await says_back(ends, b"once") > 0.2
        ends[1].writelines([b"one", b"two", b"three"])
        assert await asyncio.wait_for(ends[0].readexactly(11), WITHIN_S) == b"onetwothree"


async def test_a_narrow_wire_takes_the_time_that_its_rate_says(edge: Proxy) -> None:
    async with connected(edge) as ends:
        edge.rule(Rules(bytes_per_s=20_000))
        assert 0.4 < await says_back(ends, b"x" * 10_000) < WITHIN_S


async def test_what_is_sliced_arrives_in_small_pieces_and_whole(edge: Proxy, heard: list[bytes]) -> None:
    async with connected(edge) as ends:
        edge.rule(Rules(sliced=True))
        await says_back(ends, b"0123456789" * 400)  # Long enough that a busy machine does not read all of it in five goes.
    assert len(heard) > 5


async def test_a_black_hole_holds_both_directions_and_loses_nothing(edge: Proxy, heard: list[bytes]) -> None:
    async with connected(edge) as ends:
        await says_back(ends, b"before")
        edge.rule(CUT)
        ends[1].write(b"during")
        assert await is_quiet(ends)
        assert heard == [b"before"]
        edge.heal()
        assert await asyncio.wait_for(ends[0].readexactly(6), WITHIN_S) == b"during"


async def test_one_direction_can_be_held_alone(edge: Proxy, heard: list[bytes]) -> None:
    async with connected(edge) as ends:
        await says_back(ends, b"before")
        edge.rule(Rules(down_held=True))
        ends[1].write(b"during")
        await until(lambda: heard == [b"before", b"during"], WITHIN_S, "what went up")
        assert await is_quiet(ends)


async def test_the_end_of_a_client_is_not_heard_through_a_black_hole(edge: Proxy) -> None:
    async with connected(edge) as ends:
        await says_back(ends, b"before")
        edge.rule(CUT)
    async with connected(edge) as ends:
        assert await is_quiet(ends)
        assert edge.seen().open == 2
    edge.heal()
    await until(lambda: edge.seen().open == 0, WITHIN_S, "the end")


async def test_a_connection_made_into_a_black_hole_reaches_the_server_when_that_heals(edge: Proxy) -> None:
    edge.rule(CUT)
    async with connected(edge) as ends:
        ends[1].write(b"hello")
        assert await is_quiet(ends)
        edge.heal()
        assert await asyncio.wait_for(ends[0].readexactly(5), WITHIN_S) == b"hello"


async def test_silence_accepts_and_says_nothing_and_its_end_resets(edge: Proxy, heard: list[bytes]) -> None:
    edge.rule(Rules(silent=True))
    async with connected(edge) as ends:
        ends[1].write(b"hello")
        assert await is_quiet(ends)
        edge.heal()
        await is_reset(ends)
    assert heard == []


async def test_a_reset_reaches_both_ends(edge: Proxy, heard: list[bytes]) -> None:
    async with connected(edge) as ends:
        await says_back(ends, b"before")
        edge.reset()
        await is_reset(ends)
    await until(lambda: heard[-1] == b"reset", WITHIN_S, "the server's reset")


async def test_the_cut_comes_after_the_very_byte(edge: Proxy) -> None:
    async with connected(edge) as ends:
        edge.cut_after(7)
        await says_back(ends, b"1234")
        ends[1].write(b"5678")
        assert await asyncio.wait_for(ends[0].readexactly(3), WITHIN_S) == b"567"
        await is_reset(ends)
    async with connected(edge) as ends:
        await says_back(ends, b"again")
    assert edge.seen().cut == 1


async def test_exactly_one_answer_is_swallowed_and_the_server_has_heard_what_it_answered(edge: Proxy, heard: list[bytes]) -> None:
    edge.swallow(b"COMMIT")
    async with connected(edge) as ends:
        await says_back(ends, b"something else")
        ends[1].write(b"please CO")
        await asyncio.wait_for(ends[0].readexactly(9), WITHIN_S)
        ends[1].write(b"MMIT this")
        await is_reset(ends)
    assert b"".join(heard).startswith(b"something elseplease COMMIT this")
    async with connected(edge) as ends:
        await says_back(ends, b"please COMMIT this")
    assert edge.seen().swallowed == 1


async def test_an_edge_can_be_led_elsewhere_and_a_server_that_is_away_resets(edge: Proxy) -> None:
    edge.aim(*free_ports(1))
    with suppress(ConnectionResetError):  # It may come before the connection is known to stand.
        async with connected(edge) as ends:
            await is_reset(ends)
