import asyncio
import heapq
import random
import time

import pytest

from aviary.core.errors import Overloaded
from aviary.replica.admission import Admission, Ticket
from aviary.wire.asgi import error_headers


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


async def test_ones_hundreds_do_not_delay_anothers_single_one() -> None:
    """It gets the very next slot, though the line is full."""
    admission = Admission(2, 64, 60)
    held = [await admission.enter(client="hog") for _ in range(2)]
    hogs = [asyncio.create_task(admission.enter(client="hog")) for _ in range(500)]
    await settle()
    refused = [task for task in hogs if task.done()]
    assert len(refused) == 500 - 64
    single = asyncio.create_task(admission.enter(client="single"))
    await settle()
    assert admission.waiting == 64
    crowded_out = [task for task in hogs if task.done() and task not in refused]
    assert crowded_out == [hogs[63]]  # the newest that had a place
    error = crowded_out[0].exception()
    assert isinstance(error, Overloaded)
    assert error.retry_after_s
    assert not single.done()
    held[0].leave()
    await settle()
    assert single.done()
    assert not hogs[0].done()
    for task in refused:
        assert isinstance(task.exception(), Overloaded)
    for task in hogs:
        task.cancel()
    await asyncio.gather(*hogs, return_exceptions=True)
    held[1].leave()
    (await single).leave()
    assert admission.load == b"0,0,2"


async def test_who_was_admitted_before_goes_ahead_of_a_full_line() -> None:
    admission = Admission(2, 1, 60)
    held = await admission.enter(2)
    waiting = asyncio.create_task(admission.enter())
    await settle()
    again = asyncio.create_task(admission.enter(2, "a", admitted=True))
    await settle()
    assert admission.waiting == 2
    held.leave()
    await settle()
    assert again.done()
    assert not waiting.done()
    (await again).leave()
    (await waiting).leave()


async def test_cancelled_and_crowded_out_in_the_same_moment() -> None:
    admission = Admission(1, 2, 60)
    held = await admission.enter(client="hog")
    hogs = [asyncio.create_task(admission.enter(client="hog")) for _ in range(2)]
    await settle()
    single = asyncio.create_task(admission.enter(client="single"))
    hogs[1].cancel()  # before `single` makes room by its place
    await settle()
    assert admission.waiting == 2
    held.leave()
    (await single).leave()
    (await hogs[0]).leave()
    assert hogs[1].cancelled()
    assert admission.load == b"0,0,1"


class Simulation:
    """An admission on a clock of our own; whatever is admitted ends after its service time."""

    def __init__(self, slots: int, queue: int, wait_s: float = 1e6) -> None:
        self.now_s = 0.0
        self.admission = Admission(slots, queue, wait_s, clock=lambda: self.now_s)
        self.ends: list[tuple[float, int, Ticket]] = []
        self.count = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, service_s: float, client: str = "") -> float | None:
        """Come now; answers when to come back, or nothing when there was room."""
        refusal: list[float] = []

        async def request() -> None:
            try:
                ticket = await self.admission.enter(1, client)
            except Overloaded as error:
                refusal.append(error.retry_after_s or 0.0)
                return
            self.count += 1
            heapq.heappush(self.ends, (self.now_s + service_s, self.count, ticket))

        task = asyncio.create_task(request())
        self.tasks.append(task)
        await settle()
        return refusal[0] if task.done() and refusal else None

    async def until(self, then_s: float) -> None:
        """Let the time pass."""
        while self.ends and self.ends[0][0] <= then_s:
            self.now_s, _, ticket = heapq.heappop(self.ends)
            ticket.leave()
            await settle()
        self.now_s = then_s

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for _, _, ticket in self.ends:
            ticket.leave()


def wire_s(retry_after_s: float) -> int:
    """As the header says it."""
    return int(dict(error_headers(Overloaded("", retry_after_s=retry_after_s)))[b"retry-after"])


@pytest.mark.parametrize("service_s", [0.3, 7.0, 90.0])
async def test_retry_after_is_true(service_s: float) -> None:
    """Even services: each of many refused clients finds room when it comes back, and not late."""
    slots, queue = 3, 10
    simulation = Simulation(slots, queue)
    for number in range(20):  # it has seen some before
        await simulation.ask(service_s, f"early {number % 7}")
        await simulation.until(simulation.now_s + service_s)
    for number in range(slots + queue):
        assert await simulation.ask(service_s, f"first {number}") is None
        simulation.now_s += service_s / 100
    back: list[tuple[float, str]] = []
    for number in range(12):
        told = await simulation.ask(service_s, f"refused {number}")
        assert told is not None
        heapq.heappush(back, (simulation.now_s + wire_s(told), f"refused {number}"))
        # Nobody is sent away for longer than it takes.
        assert told <= service_s * (1.2 + (number + 1) / slots)
    while back:
        when, client = heapq.heappop(back)
        await simulation.until(when)
        assert await simulation.ask(service_s, client) is None, client
    await simulation.stop()


@pytest.mark.parametrize("seed", range(5))
async def test_retry_after_is_nearly_always_true_of_uneven_services(seed: int) -> None:
    """Service times of 1 to 30 s, and clients that come back just when they were told to."""
    chance = random.Random(seed)
    simulation = Simulation(4, 12)
    due: list[tuple[float, str, bool]] = []
    for number in range(150):
        heapq.heappush(due, (chance.uniform(0, 400), f"client {number}", False))
    kept = broken = 0
    while due:
        when, client, promised = heapq.heappop(due)
        await simulation.until(max(when, simulation.now_s))
        told = await simulation.ask(chance.uniform(1, 30), client)
        if told is not None:
            heapq.heappush(due, (simulation.now_s + wire_s(told), client, True))
        if promised:
            kept, broken = kept + (told is None), broken + (told is not None)
    await simulation.stop()
    assert kept > 20
    assert broken <= 0.1 * (kept + broken), (kept, broken)


async def test_what_was_promised_is_not_given_to_who_comes_meanwhile() -> None:
    simulation = Simulation(1, 4)
    await simulation.ask(10.0)
    await simulation.until(10.0)
    for number in range(5):
        assert await simulation.ask(10.0, f"first {number}") is None
    told = await simulation.ask(10.0, "refused")
    assert told is not None
    await simulation.until(simulation.now_s + told)
    assert simulation.admission.waiting == 3
    assert await simulation.ask(10.0, "passer-by") is not None
    assert simulation.admission.waiting == 3
    assert await simulation.ask(10.0, "refused") is None
    await simulation.stop()


async def test_who_does_not_come_back_costs_little() -> None:
    """Many were told to come, and none does: half of the line is for others, soon all of it."""
    simulation = Simulation(1, 8)
    for number in range(9):
        assert await simulation.ask(10.0, f"first {number}") is None
    for number in range(100):
        assert await simulation.ask(10.0, f"gone {number}") is not None
    await simulation.until(50.0)
    got_in = 0
    while await simulation.ask(10.0, f"later {got_in}") is None:
        got_in += 1
    assert simulation.admission.waiting == 4
    assert got_in > 0
    await simulation.until(5000.0)
    assert simulation.admission.load == b"0,0,1"
    for number in range(9):
        assert await simulation.ask(10.0, f"again {number}") is None
    await simulation.stop()


async def test_ones_promises_do_not_keep_others_out() -> None:
    simulation = Simulation(1, 8)
    for _ in range(300):
        await simulation.ask(10.0, "hog")
    for number in range(4):
        assert await simulation.ask(10.0, f"single {number}") is None
    await simulation.stop()


async def test_requests_that_run_already_too_long_are_reckoned_with() -> None:
    """All have been quick so far; those that run now have run for a minute."""
    simulation = Simulation(1, 1)
    for _ in range(10):
        await simulation.ask(1.0)
        await simulation.until(simulation.now_s + 1.0)
    await simulation.ask(100.0)
    await simulation.ask(100.0)
    assert (await simulation.ask(1.0) or 0.0) < 3
    await simulation.until(simulation.now_s + 60)
    assert (await simulation.ask(1.0) or 0.0) >= 20
    await simulation.stop()


async def test_a_place_is_free_when_the_longest_wait_of_another_is_over() -> None:
    simulation = Simulation(1, 2, wait_s=50.0)
    for _ in range(10):
        await simulation.ask(1000.0)
        await simulation.until(simulation.now_s + 1000.0)
    for _ in range(3):
        await simulation.ask(1000.0)
    assert await simulation.ask(1000.0) == pytest.approx(50.0)
    await simulation.stop()


async def test_a_storm_of_refusals_is_cheap() -> None:
    admission = Admission(8, 1000, 60)
    for number in range(1008):
        _ = asyncio.create_task(admission.enter(client=f"c{number % 50}"))  # noqa: RUF006
    await settle()
    began = time.process_time()
    for number in range(2000):
        with pytest.raises(Overloaded):
            await admission.enter(client=f"c{number % 50}")
    assert time.process_time() - began < 2.0  # far below a millisecond each


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
    """Random arrivals, clients, weights, services, time-outs and cancellations at any moment."""
    chance = random.Random(seed)
    slots = chance.randint(1, 4)
    queue = chance.randint(0, 8)
    admission = Admission(slots, queue, chance.choice([0.0, 0.002, 10]))
    most = 0
    retries: list[float] = []

    async def request() -> None:
        nonlocal most
        ticket: Ticket | None = None
        try:
            ticket = await admission.enter(
                chance.randint(1, 5),
                chance.choice("aaab"),
                admitted=seed % 2 > chance.random() * 20,
            )
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
        assert admission.waiting <= queue or seed % 2
    results = await asyncio.gather(*tasks, return_exceptions=True)
    odd = [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)]
    assert not odd, odd
    assert most >= 1
    assert all(seconds > 0 for seconds in retries)
    assert admission.load == b"0,0,%d" % slots
    for _ in range(slots):
        await asyncio.wait_for(admission.enter(), 0.1)  # all of them can be had again
