"""Wall-clock time that passes with the event loop's: at once, where the loop's time is virtual."""

import asyncio
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class LoopClock:
    """`ports.Clock` of a test."""

    def now(self) -> datetime:
        return _EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
