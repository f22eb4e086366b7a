import asyncio
import random

import pytest

from aviary.core.errors import Overloaded
from aviary.replica.admission import Admission, Ticket


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_given_at_once_until_none_is_left() -> None:
    admission = Admission(2, 10, 60)
    first, second = await admission.enter(), await admission.enter()
    third = asyncio.create_task(admission.enter())
    await settle()
    assert (admission.running, admission.waiting, admission.load) == (2, 1, b"2,1,2")
    assert not third.done()
    first.leave()
    await settle()
    assert (admission.running, admission.waiting) == (2, 0)
    second.leave()
    (await third).leave()
    assert admission.load == b"0,0,2"


async def test_first_come_first_served() -> None:
    admission = Admission(1, 100, 60)
    order: list[int] = []
    held = await admission.enter()

    async def run(number: int) -> None:
        ticket = await admission.enter()
        order.append(number)
        await asyncio.sleep(0)
        ticket.leave()

    tasks = []
    for number in range(20):
        tasks.append(asyncio.create_task(run(number)))
        await settle()
    held.leave()
    await asyncio.gather(*tasks)
    assert order == list(range(20))


async def test_nobody_overtakes_a_heavy_request() -> None:
    admission = Admission(3, 10, 60)
    held = [await admission.enter(), await admission.enter()]
    heavy = asyncio.create_task(admission.enter(3))
    await settle()
    light = asyncio.create_task(admission.enter(1))  # one slot is free, but heavy was first
    await settle()
    assert not light.done()
    held[0].leave()
    await settle()
    assert not heavy.done()
    held[1].leave()
    await settle()
    assert heavy.done()
    assert not light.done()
    assert admission.running == 3
    (await heavy).leave()
    (await light).leave()
    assert admission.running == 0


async def test_more_than_all_slots_means_all_slots() -> None:
    admission = Admission(2, 10, 60)
    ticket = await admission.enter(50)
    assert admission.running == 2
    ticket.leave()
    assert admission.running == 0


@pytest.mark.parametrize("weight", [0, -5])
async def test_less_than_one_slot_means_one(weight: int) -> None:
    admission = Admission(2, 10, 60)
    ticket = await admission.enter(weight)
    assert admission.running == 1
    ticket.leave()
    assert admission.running == 0


async def test_a_ticket_leaves_once() -> None:
    admission = Admission(2, 10, 60)
    ticket, _ = await admission.enter(), await admission.enter()
    ticket.leave()
    ticket.leave()
    assert admission.running == 1


@pytest.mark.parametrize("queue", [0, 2])
async def test_a_full_line_refuses(queue: int) -> None:
    admission = Admission(1, queue, 60)
    held = await admission.enter()
    waiting = [asyncio.create_task(admission.enter()) for _ in range(queue)]
    await settle()
    with pytest.raises(Overloaded, match=f"{queue} requests wait") as caught:
        await admission.enter()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 0
    assert admission.waiting == queue
    held.leave()
    for task in waiting:
        (await task).leave()
    assert admission.running == 0


async def test_retry_after_grows_with_line_and_service_time() -> None:
    admission = Admission(2, 100, 60)
    empty = admission.retry_after_s()
    for _ in range(50):
        admission._free -= 1
        admission.leave(1, 10.0)
    slow = admission.retry_after_s()
    assert slow == pytest.approx(5.0, rel=0.01)
    assert 0 < empty < slow
    held = await admission.enter(2)
    waiting = [asyncio.create_task(admission.enter()) for _ in range(3)]
    await settle()
    assert admission.retry_after_s() == pytest.approx(4 * slow)
    held.leave()
    for task in waiting:
        (await task).leave()


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
async def test_the_wait_is_bounded(wait_s: float) -> None:
    admission = Admission(1, 10, wait_s)
    held = await admission.enter()
    with pytest.raises(Overloaded, match="No slot became free within") as caught:
        await admission.enter()
    assert caught.value.retry_after_s
    assert admission.waiting == 0
    held.leave()
    assert admission.running == 0


async def test_a_request_that_gives_up_lets_the_next_one_pass() -> None:
    """The heavy one blocks the light one behind it; when it leaves the line, light must go."""
    admission = Admission(2, 10, 60)
    held = await admission.enter()
    heavy = asyncio.create_task(admission.enter(2))
    await settle()
    light = asyncio.create_task(admission.enter(1))
    await settle()
    heavy.cancel()
    await settle()
    assert light.done()
    held.leave()
    (await light).leave()
    assert admission.running == 0


async def test_cancelled_in_the_moment_of_its_turn() -> None:
    admission = Admission(1, 10, 60)
    held = await admission.enter()
    waiter = asyncio.create_task(admission.enter())
    await settle()
    held.leave()  # gives the slot to the waiter,
    waiter.cancel()  # which does not live to take it
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert admission.load == b"0,0,1"


@pytest.mark.parametrize("seed", range(30))
async def test_no_slot_is_ever_lost(seed: int) -> None:
    """Random arrivals, weights, services, time-outs and cancellations at any moment."""
    chance = random.Random(seed)
    slots = chance.randint(1, 4)
    admission = Admission(slots, chance.randint(0, 8), chance.choice([0.0, 0.002, 10]))
    most = 0
    retries: list[float] = []

    async def request() -> None:
        nonlocal most
        ticket: Ticket | None = None
        try:
            ticket = await admission.enter(chance.randint(1, 5))
            most = max(most, admission.running)
            for _ in range(chance.randint(0, 4)):
                await asyncio.sleep(chance.choice([0, 0, 0.001]))
        except Overloaded as error:
            retries.append(error.retry_after_s or 0)
        finally:
            if ticket is not None:
                ticket.leave()

    tasks: list[asyncio.Task[None]] = []
    for _ in range(150):
        tasks.append(asyncio.create_task(request()))
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        for victim in chance.sample(tasks, min(len(tasks), chance.randint(0, 2))):
            victim.cancel()
        assert 0 <= admission.running <= slots
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert most >= 1
    assert all(seconds > 0 for seconds in retries)
    assert admission.load == b"0,0,%d" % slots
    for _ in range(slots):
        await asyncio.wait_for(admission.enter(), 0.1)  # all of them can be had again
