"""What `withdrawals` does of an erasure to whoever asks later."""

from uuid import UUID

from shared.postgres import Pool
from shared.privacy import PersonalKeys


async def destroy_key(pool: Pool, person: UUID) -> None:
    """The person's key is destroyed, also where there never was one; `pool` acts as the app role."""
    async with pool.acquire() as connection, connection.transaction():
        await PersonalKeys(pool, bytes(32)).destroy(person, connection)
