"""Battles and votes, over every database the store runs on."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviary.core.errors import InvalidRequest, StoreError
from aviary.core.ports import RequestRecord
from aviary.core.preference import (
    Ballot,
    Ballots,
    Battle,
    BattleAnswer,
    Contestant,
    Progress,
    Vote,
)
from aviary.store import SqlBallots, SqlRequestLog
from aviary.store.figures import Figures, figures
from aviary.store.records import MAX_COUNT, MAX_REAL, clean_text


@pytest.fixture
def ballots(url: str) -> Iterator[SqlBallots]:
    ballots = SqlBallots.open(url)
    yield ballots
    ballots.close()


def battle(identity: str = "b1", *answers: BattleAnswer, **changes: object) -> Battle:
    columns = answers or (BattleAnswer(0, "a"), BattleAnswer(1, "b"), BattleAnswer(2, "c"))
    values = {"id": identity, "created": 1000.0, "messages": [{"role": "user", "content": "hi"}]}
    return Battle(**(values | changes), answers=columns)  # type: ignore[arg-type]


def test_gives_back_every_field(ballots: SqlBallots) -> None:
    store: Ballots = ballots
    full = battle(
        "bt-1",
        BattleAnswer(
            column=0,
            model="smöllm 🐦",
            spec_hash="ab12",
            parameters={"temperature": 0.1, "stop": ["\0", "\ud800"]},
            text="<script>alert(1)</script>\n\u05e9\u05dc\u05d5\u05dd\u202etxt",
            finish_reason="stop",
            ttft_ms=12.5,
            latency_ms=900.25,
            prompt_tokens=17,
            completion_tokens=0,
            cost_usd=0.000_012_3,
        ),
        BattleAnswer(1, "other", text="half", error="replica_crashed"),
        messages=[{"role": "user", "content": [{"type": "text", "text": "a\0b\ud800"}]}],
        system="Be brief.",
        blind=True,
        task="code",
        session="s-1",
        key="ak_1",
    )
    store.save(full)
    store.save(Battle("bare", 0.0, []))
    assert store.battle("bt-1") == full
    assert store.battle("bare") == Battle("bare", 0.0, [])
    assert store.battle("none") is None
    assert [answer.column for answer in full.good] == [0]


def test_an_id_is_used_once(ballots: SqlBallots) -> None:
    ballots.save(battle(task="first"))
    with pytest.raises(StoreError) as caught:
        ballots.save(battle(task="second"))
    assert "INSERT" not in str(caught.value)
    assert ballots.battle("b1") == battle(task="first")


def test_a_battle_is_stored_whole_or_not_at_all(ballots: SqlBallots) -> None:
    with pytest.raises(StoreError):
        ballots.save(battle("b1", BattleAnswer(0, "a"), BattleAnswer(0, "b")))
    assert ballots.battle("b1") is None
    with pytest.raises(StoreError, match="cannot be stored"):
        ballots.save(battle("b1", messages=[{"content": math.nan}]))
    with pytest.raises(InvalidRequest, match="keeps 4000000"):
        ballots.save(battle("b1", messages=[{"content": "x" * 4_000_001}]))
    assert ballots.battle("b1") is None


def test_one_vote_a_battle_and_session_which_may_change(ballots: SqlBallots) -> None:
    ballots.save(battle())
    first = Vote("b1", "s1", "best", 1, reason="it is right", time=5.0, key="ak_1")
    ballots.vote(first)
    assert ballots.votes("b1") == [first]
    changed = Vote("b1", "s1", "all_bad", reason="", time=7.0)
    other = Vote("b1", "s2", "tie", time=6.0)
    ballots.vote(changed)
    ballots.vote(other)
    assert ballots.votes("b1") == [other, changed]
    assert ballots.votes("none") == []
    assert ballots.ballots() == [
        Ballot("b1", ("a", "b", "c"), "tie", time=6.0),
        Ballot("b1", ("a", "b", "c"), "all_bad", time=7.0),
    ]


def test_ballots_leave_failed_answers_out(ballots: SqlBallots) -> None:
    dead = BattleAnswer(0, "dead", error="overloaded")
    ballots.save(battle("b1", dead, BattleAnswer(1, "a"), BattleAnswer(2, "b")))
    ballots.vote(Vote("b1", "s", "best", 2, time=1.0))
    assert ballots.ballots() == [Ballot("b1", ("a", "b"), "best", 1, time=1.0)]


def test_ballots_of_a_time_and_a_task(ballots: SqlBallots) -> None:
    for number in range(4):
        ballots.save(battle(f"b{number}", task="code" if number % 2 else "chat"))
        ballots.vote(Vote(f"b{number}", "s", "best", 0, time=float(number)))
    assert [b.battle for b in ballots.ballots()] == ["b0", "b1", "b2", "b3"]
    assert [b.battle for b in ballots.ballots(since=2.0)] == ["b2", "b3"]
    assert [b.battle for b in ballots.ballots(task="code")] == ["b1", "b3"]
    assert [b.battle for b in ballots.ballots(since=2.0, task="code")] == ["b3"]
    assert ballots.ballots(task="") == []


@pytest.mark.parametrize(
    ("vote", "param"),
    [
        (Vote("none", "s", "tie"), "battle"),
        (Vote("b1", "s", "best"), "column"),
        (Vote("b1", "s", "best", 3), "column"),
        (Vote("b1", "s", "best", -1), "column"),
        (Vote("b1", "s", "tie", 0), "column"),
        (Vote("b1", "s", "worst", 0), "verdict"),  # type: ignore[arg-type]
        (Vote("dead", "s", "best", 0), "column"),
        (Vote("lonely", "s", "best", 1), "battle"),
    ],
)
def test_votes_that_mean_nothing(ballots: SqlBallots, vote: Vote, param: str) -> None:
    dead = BattleAnswer(0, "d", error="overloaded")
    ballots.save(battle())
    ballots.save(battle("dead", dead, BattleAnswer(1, "a"), BattleAnswer(2, "b")))
    ballots.save(battle("lonely", dead, BattleAnswer(1, "a")))
    with pytest.raises(InvalidRequest) as caught:
        ballots.vote(vote)
    assert caught.value.param == param
    assert ballots.ballots() == []


def test_whatever_is_put_in_comes_out_cleaned(ballots: SqlBallots) -> None:
    anything = st.text(alphabet=st.characters(), max_size=400) | st.sampled_from(
        ["\0", "a\0b", "\ud800", "x" * 100_000, "🐦" * 300, "'; DROP TABLE votes; --", "\u202eabc"]
    )
    real = st.none() | st.floats() | st.integers()
    numbers = iter(range(10**6))

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(anything, anything, anything, real, st.none() | st.integers())
    def round_trip(one: str, two: str, three: str, number: float, count: int | None) -> None:
        identity = f"b{next(numbers)}"
        hostile = BattleAnswer(
            0, one, two, {"x": three}, three, one, number, 1.0, count, count, number
        )
        given_battle = battle(
            identity,
            hostile,
            BattleAnswer(1, "b"),
            messages=[{"role": one, "content": two}],
            system=three,
            task=one,
            session=two,
            key=three,
        )
        ballots.save(given_battle)
        found = ballots.battle(identity)
        assert found is not None
        assert found.messages == given_battle.messages
        assert (found.system, found.task) == (clean_text(three, 10**6), clean_text(one, 64))
        assert (found.session, found.key) == (clean_text(two, 64), clean_text(three, 64))
        answer = found.answers[0]
        assert answer.parameters == {"x": three}
        assert (answer.model, answer.text) == (clean_text(one, 256), clean_text(three, 10**6))
        assert (answer.spec_hash, answer.finish_reason) == (
            clean_text(two, 64),
            clean_text(one, 64),
        )
        assert answer.ttft_ms is None or 0 <= answer.ttft_ms <= MAX_REAL
        assert answer.prompt_tokens is None or 0 <= answer.prompt_tokens <= MAX_COUNT
        vote = Vote(identity, two, "best", 0, reason=three, time=3.0, key=one)
        ballots.vote(vote)
        ballots.vote(vote)
        assert ballots.votes(identity) == [
            replace(
                vote,
                session=clean_text(two, 64),
                reason=clean_text(three, 2000),
                key=clean_text(one, 64),
            )
        ]

    round_trip()


def test_old_battles_without_a_vote_go(
    ballots: SqlBallots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aviary.store.ballots.PRUNE_BATTLES", 3)
    for number in range(10):
        ballots.save(battle(f"b{number}", created=float(number)))
    ballots.vote(Vote("b2", "s", "tie", time=99.0))
    assert ballots.prune(0.0) == 0
    assert ballots.prune(8.0) == 7
    left = [number for number in range(10) if ballots.battle(f"b{number}") is not None]
    assert left == [2, 8, 9]
    assert len(ballots.ballots()) == 1
    assert ballots.prune(8.0) == 0
    ballots.save(battle("b1"))  # nothing of it was left


def test_a_huge_answer_is_cut(ballots: SqlBallots) -> None:
    ballots.save(battle("b1", BattleAnswer(0, "a", text="🐦" * 1_000_001), BattleAnswer(1, "b")))
    found = ballots.battle("b1")
    assert found is not None
    assert found.answers[0].text == "🐦" * 1_000_000


def test_many_vote_at_once(ballots: SqlBallots, url: str) -> None:
    ballots.save(battle())
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        mine = SqlBallots.open(url)
        try:
            for turn in range(10):
                mine.vote(Vote("b1", f"s{turn}", "best", thread % 3, time=1.0 + thread))
        except BaseException as error:
            errors.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(vote.session for vote in ballots.votes("b1")) == [f"s{n}" for n in range(10)]


_VOTER = """
import itertools, sys
from aviary.core.preference import Vote
from aviary.store import SqlBallots
ballots = SqlBallots.open(sys.argv[1])
for number in itertools.count():
    ballots.vote(Vote("b1", f"s{number}", "best", number % 3, time=1.0))
    print(number, flush=True)
"""


@pytest.mark.parametrize("votes", [1, 7])
def test_kill_9_right_after_a_vote_keeps_it(ballots: SqlBallots, url: str, votes: int) -> None:
    ballots.save(battle())
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _VOTER, url], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        confirmed = [int(child.stdout.readline()) for _ in range(votes)]
        os.kill(child.pid, signal.SIGKILL)
        confirmed += [int(line) for line in child.stdout.read().splitlines()]
        child.stdout.close()
        child.wait()
        stored = {vote.session: vote.column for vote in ballots.votes("b1")}
        assert {f"s{number}": number % 3 for number in confirmed}.items() <= stored.items()


def test_figures_of_the_request_log(url: str) -> None:
    log = SqlRequestLog.open(url)
    good = RequestRecord("r", 10.0, "/v1/chat/completions", "m", stream=True)

    def answer(time: float, ttft_ms: float, cost_usd: float | None, **more: object) -> None:
        latency_ms = ttft_ms + 90.0
        values = {"time": time, "latency_ms": latency_ms, "time_to_first_token_ms": ttft_ms}
        tokens = {"prompt_tokens": 40, "completion_tokens": 10, "cost_usd": cost_usd}
        log.append([replace(good, **(values | tokens | more))])  # type: ignore[arg-type]

    for number in range(1, 4):
        answer(float(number), 100.0 * number, 0.01)
    answer(9.0, 1.0, None, stream=False)
    answer(11.0, 1.0, 5.0, status=500, error="engine_error")
    answer(12.0, 1.0, 5.0, route="/v1/embeddings")
    answer(13.0, 1.0, 5.0, model="other")
    found = figures(log.database, ["m", "unknown"])
    assert found["unknown"] == Figures()
    assert found["m"].answers == 4
    assert found["m"].ttft_p50_ms == 200.0
    assert found["m"].tokens_per_s == pytest.approx(9 / 0.090)
    assert found["m"].mean_answer_tokens == 10
    assert found["m"].cost_per_answer_usd == pytest.approx(0.01)
    assert found["m"].cost_per_million_tokens_usd == pytest.approx(0.01 / 50 * 1e6)
    assert found["m"].last_seen == 9.0
    assert figures(log.database, ["m"], since=2.5)["m"].answers == 2
    log.close()


def test_a_battle_is_stored_as_it_goes(ballots: SqlBallots) -> None:
    turns = [{"role": "user", "content": "a\0b\ud800"}]
    begun = replace(
        battle("b1"), answers=(), lineup=(Contestant("a", {"seed": 1}, turns), Contestant("b"))
    )
    one, two = BattleAnswer(0, "a", text="one"), BattleAnswer(1, "b", text="two")
    first = [Progress("b1", begun=begun), Progress("b1", answer=one)]
    assert ballots.keep(first) == ["", ""]
    assert ballots.battle("b1") == replace(begun, answers=(one,))
    assert ballots.keep(first) == ["", ""]
    other = replace(begun, task="another")
    better = replace(one, text="better")
    assert ballots.keep([Progress("b1", begun=other), Progress("b1", answer=better)]) == ["", ""]
    assert ballots.keep([Progress("b1", answer=two)]) == [""]
    assert ballots.battle("b1") == replace(begun, answers=(better, two))


def test_what_cannot_be_kept_does_not_hold_up_the_rest(ballots: SqlBallots) -> None:
    huge = battle("b2", messages=[{"content": "x" * 4_000_001}])
    refused = ballots.keep(
        [
            Progress("none", answer=BattleAnswer(0, "a")),
            Progress("b2", begun=huge),
            Progress("b3", begun=battle("b3", messages=[{"content": math.nan}])),
            Progress("b1", begun=battle("b1")),
            Progress("b1", answer=BattleAnswer(0, "a")),
        ]
    )
    assert [bool(reason) for reason in refused] == [True, True, True, False, False]
    assert "none" in refused[0]
    assert ballots.battle("b2") is None
    assert len(ballots.battle("b1").answers) == 1  # type: ignore[union-attr]


def test_answers_stay_once_there_is_a_vote(ballots: SqlBallots) -> None:
    ballots.keep(
        [
            Progress("b1", begun=replace(battle("b1"), answers=())),
            *(Progress("b1", answer=BattleAnswer(n, "abc"[n], text="old")) for n in (0, 1)),
        ]
    )
    now = time.time()
    ballots.vote(Vote("b1", "s", "best", 1, time=now))
    late = [Progress("b1", answer=BattleAnswer(n, "abc"[n], text="new")) for n in (1, 2)]
    assert [bool(reason) for reason in ballots.keep(late)] == [True, False]
    found = ballots.battle("b1")
    assert found is not None
    assert [answer.text for answer in found.answers] == ["old", "old", "new"]
    # What came after the vote is no part of it; a vote that is changed then is on all.
    assert ballots.ballots() == [Ballot("b1", ("a", "b"), "best", 1, time=now)]
    ballots.vote(Vote("b1", "s", "best", 2, time=now + 10))
    assert ballots.ballots() == [Ballot("b1", ("a", "b", "c"), "best", 2, time=now + 10)]


def test_an_address_first_votes_of_a_day_count(ballots: SqlBallots) -> None:
    for number in range(60):
        ballots.save(battle(f"b{number}"))
        ballots.vote(Vote(f"b{number}", f"s{number}", "best", 0, time=1e6 + number, address="x"))
        ballots.vote(Vote(f"b{number}", "me", "tie", time=1e6 + number))
    assert len(ballots.ballots()) == 50 + 60
    ballots.vote(Vote("b59", "s59", "best", 1, time=1e6 + 90_000, address="x"))  # changed only
    ballots.vote(Vote("b0", "next day", "best", 1, time=1e6 + 90_000, address="x"))
    assert len(ballots.ballots()) == 50 + 60 + 1
    assert [vote.counted for vote in ballots.votes("b59")] == [True, False]
    (voter,) = ballots.voters(0.0, 10)
    assert (voter.address, voter.votes, voter.not_counted) == ("x", 61, 10)
    assert (voter.sessions, voter.battles, voter.best) == (61, 60, 61)
    assert (voter.favourite, voter.favourite_best) == ("a", 59)
    assert (voter.first, voter.last) == (1e6, 1e6 + 90_000)
    assert ballots.voters(1e6 + 90_001, 10) == []


def test_an_address_counts_three_times_on_a_battle(ballots: SqlBallots) -> None:
    ballots.save(battle())
    for number in range(5):
        ballots.vote(Vote("b1", f"s{number}", "best", 0, time=1.0 + number, address="x"))
    ballots.vote(Vote("b1", "other", "tie", time=9.0, address="y"))
    assert [vote.counted for vote in ballots.votes("b1")] == [True] * 3 + [False] * 2 + [True]
    assert [voter.address for voter in ballots.voters(0.0, 1)] == ["x"]


def test_tasks_and_the_secret(ballots: SqlBallots, url: str) -> None:
    for number, task in enumerate(["code", "code", "chat", "", "never voted on"]):
        ballots.save(battle(f"b{number}", task=task))
        if task != "never voted on":
            ballots.vote(Vote(f"b{number}", "s", "tie", time=1.0))
    assert ballots.tasks(10) == ["chat", "code"]
    assert ballots.tasks(1) == ["code"]
    other = SqlBallots.open(url)
    assert ballots.secret() == other.secret()
    assert len(ballots.secret()) == 32
    other.close()
