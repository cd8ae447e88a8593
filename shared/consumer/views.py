"""The role `views`: all read models of a service, with one position for each source log (D7)."""

import asyncio
from collections.abc import Sequence
from typing import Final

from shared import logs
from shared.consumer.apply import LIVE, Part
from shared.consumer.schema import consumer_of, definition_hash, is_current
from shared.consumer.setting import Setting
from shared.contracts.topics import subscribed
from shared.lifecycle import pause

LOOK_SECONDS: Final = 2.0
"""Between two looks whether read models that this code may not write were rebuilt."""

_log = logs.logger()


def parts(setting: Setting, schema: str | None = None) -> Sequence[Part]:
    """What `views` does with each source log, for the live read models or those of another schema."""
    definition = definition_hash(setting.consumers.projections)
    return [
        Part(
            consumer=LIVE if schema is None else consumer_of(schema),
            source=source,
            types=types,
            folds=[each.fold for each in setting.consumers.projections if each.source == source],
            codec=setting.codec,
            keys=setting.keys if source == setting.service else None,
            definition=definition,
            schema=schema,
        )
        for source, types in subscribed(f"{setting.service}.views").items()
    ]


async def run_views(setting: Setting, stop: asyncio.Event) -> None:
    """Returns on stop. Read models that other definitions built are left as they are, until they are rebuilt.

    Raises what ends a consumer: FencedError, BreakerError, DefinitionError, NewerVersionError.
    """
    told = False
    while not await is_current(setting.pool, setting.consumers.projections, setting.metrics):
        if not told:
            _log.error("views_stand_still", reason="other definitions built them: rebuild them, or run the release that did")
        told = True
        if await pause(stop, LOOK_SECONDS):
            return
    await setting.run(parts(setting), stop)
