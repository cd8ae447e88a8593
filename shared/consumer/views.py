"""The role `views`: all read models of a service, with one position for each source log (D7)."""

import asyncio
from collections.abc import Sequence

from shared.consumer.apply import Part
from shared.consumer.setting import Setting
from shared.contracts.topics import subscribed


def parts(setting: Setting) -> Sequence[Part]:
    """What `views` does with each source log."""
    return [
        Part(
            consumer="views",
            source=source,
            types=types,
            folds=[each.fold for each in setting.consumers.projections if each.source == source],
            codec=setting.codec,
            keys=setting.keys if source == setting.service else None,
            views=True,
        )
        for source, types in subscribed(f"{setting.service}.views").items()
    ]


async def run_views(setting: Setting, stop: asyncio.Event) -> None:
    """Returns on stop. Raises what ends a consumer: FencedError, BreakerError, NewerVersionError."""
    await setting.run(parts(setting), stop)
