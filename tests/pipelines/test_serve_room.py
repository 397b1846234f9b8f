"""Models that share a process: as many work as fit, none is put out while it works, and all have their turn."""

import asyncio
from collections import Counter

from mmray.pipelines.serving.room import Room


def test_no_more_models_work_than_fit_and_all_have_their_turn() -> None:
    order: list[str] = []
    most = 0

    async def work(room: Room, model: str) -> None:
        nonlocal most
        async with room.of(model):
            order.append(model)
            most = max(most, len(room.working))
            await asyncio.sleep(0.001)

    async def every() -> Counter[str]:
        room = Room(2)
        first = [asyncio.create_task(work(room, model)) for model in "ab" * 5 + "c" + "ab" * 20]
        await asyncio.gather(*first)
        return room.working

    assert asyncio.run(every()) == {}
    assert Counter(order) == {"a": 25, "b": 25, "c": 1}
    assert most == 2
    assert order.index("c") == 10, "those who came later waited for it"


def test_who_gives_up_or_fails_leaves_the_room() -> None:
    async def every() -> Counter[str]:
        room = Room(1)

        async def work(model: str, seconds: float) -> None:
            async with room.of(model):
                await asyncio.sleep(seconds)
                raise ValueError

        at_work, waiting = asyncio.create_task(work("a", 600)), asyncio.create_task(work("b", 0))
        await asyncio.sleep(0.01)
        waiting.cancel()
        at_work.cancel()
        await asyncio.gather(at_work, waiting, return_exceptions=True)
        async with asyncio.timeout(60):  # it would wait for ever
            await asyncio.gather(*(work(model, 0) for model in "cdc"), return_exceptions=True)
        return room.working

    assert asyncio.run(every()) == {}
