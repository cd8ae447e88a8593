"""What goes on whatever the circles wait for: roles and consents given and taken back, applications without a chance, what nobody knows,
and people who only read."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4, uuid5

from tests.faults import world
from tests.faults.clients import Asked, Clients
from tests.faults.invariants import need
from tests.faults.model import Erased
from tests.faults.world import BUREAU, DEPUTY, KIOSK, LEADER

IDLE = 6
"""Volunteers who never serve."""
IDLE_FROM = 5000
"""Their numbers."""
NEW_FROM = 9000
"""The numbers of those who register while faults strike."""
HOLDERS = 40
"""People who are given roles."""
READ_EVERY_S = 1.0
SESSIONS = (
    ("registration", "/enrollments"),
    ("registration", "/volunteer-overview"),
    ("hours", "/balances"),
    ("hours", "/confirm-queue"),
    ("recognition", "/stars"),
)


class Clerks:
    """`roles` and `named` are what must stand in the lists by their own count."""

    def __init__(self, clients: Clients, seed: int) -> None:
        self.clients = clients
        self.random = random.Random(seed)
        self.happened = Counter[str]()
        self.roles: dict[UUID, bool] = {}
        self.named: dict[UUID, bool] = {}
        self.registered: dict[UUID, Asked] = {}
        """The idle, for whom something is asked again and again."""
        self.erased: dict[UUID, Erased] = {}
        self._new = itertools.count(NEW_FROM)

    async def begin(self, programme: Asked) -> None:
        """The idle register."""
        self.programme = programme
        numbers = range(IDLE_FROM, IDLE_FROM + IDLE)
        registered = await asyncio.gather(*(world.register(self.clients, number, programme) for number in numbers))
        self.registered = dict(zip(map(world.volunteer, numbers), registered, strict=True))
        self.named = dict.fromkeys(self.registered, False)

    async def register(self, with_number_of: int | None = None) -> int:
        """One more registers, under a name of their own, and is left alone after that; their number."""
        number = next(self._new)
        asked = await world.register(
            self.clients, number, self.programme, name=world.name_of_their_own(number), with_number_of=with_number_of
        )
        assert asked.accepted, asked
        self.named[world.volunteer(number)] = False
        return number

    async def ask_for_erasure(self, number: int) -> Asked:
        """Somebody who has a name of their own wants it forgotten, and says so under it."""
        who, reason = world.volunteer(number), world.name_of_their_own(number)
        asked = await self.clients.ask("registration", who, "volunteer", f"/volunteers/{who}/erasure", {"reason": reason})
        assert asked.types == ["erasure_requested"], asked
        return asked

    async def erase(self, number: int) -> Asked:
        """The second person approves what was asked for."""
        who = world.volunteer(number)
        asked = await self.clients.ask("registration", *DEPUTY, f"/volunteers/{who}/erasure/approve", {})
        assert asked.types == ["volunteer_deregistered", "personal_data_erased"], asked
        self.erased[who] = Erased(who, world.name_of_their_own(number), world.id_number(number))
        return asked

    async def work(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Fails with the first answer that should have been another."""
        async with asyncio.TaskGroup() as tasks:
            for about, pause in ((self._role, 0.2), (self._consent, 0.3), (self._star, 0.2), (self._unknown, 2.0)):
                tasks.create_task(self._again_and_again(about, pause, stop))
            for service, path in SESSIONS:
                tasks.create_task(self._session(service, path, stop))

    async def _again_and_again(self, about: Callable[[], Awaitable[None]], pause: float, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await about()
            await asyncio.sleep(pause)

    async def _role(self) -> None:
        """Given when it is not held, taken back when it is; said once more now and then, which changes nothing."""
        person = uuid5(_HOLDER, str(self.random.randrange(HOLDERS)))
        held, repeats = self.roles.get(person, False), self.random.random() < 0.1 and person in self.roles
        gives = held if repeats else not held
        path = f"/people/{person}/roles" if gives else f"/people/{person}/roles/withdraw"
        body = {"role": "auditor", "unit_code": world.UNIT} | ({} if gives else {"reason": "任期届满"})
        asked = await self.clients.ask("registration", *BUREAU, path, body)
        assert asked.types == ([] if repeats else ["role_granted" if gives else "role_withdrawn"]), asked
        self.roles[person] = gives

    async def _consent(self) -> None:
        """To be named: agreed to, and taken back."""
        who = self.random.choice(list(self.registered))
        gives = not self.named[who]
        path = f"/volunteers/{who}/consents" + ("" if gives else "/withdraw")
        body = {"consent": "be_named"} | ({"text_version": "2017-1"} if gives else {})
        asked = await self.clients.ask("registration", who, "volunteer", path, body)
        assert asked.types == ["consent_given" if gives else "consent_withdrawn"], asked
        self.named[who] = gives

    async def _star(self) -> None:
        """Who never serves is declined, each time."""
        who, first = self.random.choice(list(self.registered.items()))
        asked = await self.clients.ask("recognition", who, "volunteer", f"/volunteers/{who}/stars", {}, after=[first.token])
        assert asked.types == ["star_declined"], asked

    async def _unknown(self) -> None:
        """What nobody knows is refused, and leaves nothing."""
        nobody, (who, first) = uuid4(), self.random.choice(list(self.registered.items()))
        day = {"served_on": "2017-03-05"}
        for asked, code in (
            (await world.enroll(self.clients, nobody, who, after=first), "activity_unknown"),
            (await self.clients.ask("hours", *KIOSK, f"/activities/{nobody}/attendance/{who}/check-in", {}), "activity_unknown"),
            (await self.clients.ask("hours", *LEADER, f"/accounts/{who}/entries/{nobody}/confirm", day), "entry_unknown"),
            (await self.clients.ask("recognition", *BUREAU, f"/volunteers/{nobody}/stars", {}), "not_a_volunteer"),
        ):
            assert asked.code == code, asked
            self.happened["unknown id refused"] += 1

    async def _session(self, service: str, path: str, stop: asyncio.Event) -> None:
        """One who reads the same list time and again, and sends back what was shown: it never goes backwards (I12)."""
        tokens: tuple[str, ...] = ()
        while not stop.is_set():
            seen = await self.clients.read(service, path, after=tokens)
            went_back = backwards(tokens, seen.tokens)
            need(not went_back, "I12", f"{service}{path} showed {tokens}, then {seen.tokens}")
            tokens = seen.tokens
            self.happened["session went on"] += 1
            await asyncio.sleep(READ_EVERY_S)


def backwards(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    """The logs of which less is shown now than before; a log under another id is another one."""
    shown = {token.rpartition(":")[0]: int(token.rpartition(":")[2]) for token in now}
    return [each for each in before if shown.get(each.rpartition(":")[0], 0) < int(each.rpartition(":")[2])]


_HOLDER = UUID("0b0f3a54-3a0e-4b0e-8d5f-6a2d1f3f9c11")
