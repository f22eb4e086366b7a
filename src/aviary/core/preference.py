"""What people prefer: battles, the answers in them, and votes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, get_args

Verdict = Literal["best", "tie", "all_bad"]
VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)
COUNTED_A_DAY: Final = 50
"""So many votes of an address within 24 hours count in ratings."""
COUNTED_A_BATTLE: Final = 3
"""So many of them on the same battle."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """What one column of a battle asks, and whom.

    Attributes:
        model: The model.
        parameters: Fields of the request beside model and messages.
        messages: The column's own turns before the battle's messages; usually none.
    """

    model: str
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class BattleAnswer:
    """One column of a battle. Durations are milliseconds by the column's own clock.

    Attributes:
        column: Its number, from 0.
        model: The model that was asked.
        spec_hash: Hash of the spec that it had then.
        parameters: Fields of the request beside model and messages.
        text: What it answered; a part of it when there is an error.
        finish_reason: Why the answer ended, as the engine says; `stopped`: a person stopped it.
        ttft_ms: Column's start → first content; `None` when none came.
        latency_ms: Column's start → end.
        prompt_tokens: As reported by the engine; `None` when it did not.
        completion_tokens: Likewise.
        cost_usd: `None` when the spec has no price.
        error: Code of the error; empty when the answer is whole. A failed answer is never voted on.
    """

    column: int
    model: str
    spec_hash: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    finish_reason: str = ""
    ttft_ms: float | None = None
    latency_ms: float = 0.0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Battle:
    """Answers to one prompt, shown together.

    Attributes:
        id: Its id, which cannot be guessed: whoever knows it may see the battle.
        created: When it began, in unix seconds.
        messages: The conversation so far, as OpenAI's chat messages, without the system message. A
            column's own turns come before it.
        system: The system message; empty when there was none.
        blind: Whether names are hidden from each session until it has voted.
        task: What kind of prompt it is, in a word; empty when nobody said.
        session: Who asked: a name that the browser made up.
        key: Id of the API key; empty when none was needed.
        answers: One a column that has ended, by column.
        lineup: What each column asks; battles of older versions have none.
    """

    id: str
    created: float
    messages: list[dict[str, Any]]
    system: str = ""
    blind: bool = False
    task: str = ""
    session: str = ""
    key: str = ""
    answers: tuple[BattleAnswer, ...] = ()
    lineup: tuple[Contestant, ...] = ()

    @property
    def good(self) -> tuple[BattleAnswer, ...]:
        """The answers that a vote may be about: those that did not fail."""
        return tuple(answer for answer in self.answers if not answer.error)


@dataclass(frozen=True, slots=True)
class Progress:
    """Something to keep of a battle that runs.

    Attributes:
        battle: The battle's id.
        begun: The battle, when it begins.
        answer: An answer, when its column has ended.
    """

    battle: str
    begun: Battle | None = None
    answer: BattleAnswer | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """A person's wish that a column ends, wherever it runs.

    Attributes:
        battle: The battle's id.
        column: The column's number.
        session: Who asks; only the battle's own session may.
    """

    battle: str
    column: int
    session: str


@dataclass(frozen=True, slots=True)
class Found:
    """A stored battle, as workers are told.

    Attributes:
        battle: The battle.
        votes: How many votes there are on it.
    """

    battle: Battle
    votes: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A person's verdict on a battle; one a battle and session.

    Attributes:
        battle: The battle's id.
        session: Who votes: a name that the browser made up.
        verdict: `best` (of all), `tie` (all alike) or `all_bad`.
        column: The best one's column; `None` with the other verdicts.
        reason: Why, in the person's words; may be empty.
        time: When, in unix seconds.
        key: Id of the API key; empty when none was needed.
        address: Keyed hash of where it came from; empty when that is this machine.
        counted: Whether ratings count it: an address' first ones of a day do. The store says.
    """

    battle: str
    session: str
    verdict: Verdict
    column: int | None = None
    reason: str = ""
    time: float = 0.0
    key: str = ""
    address: str = ""
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Voter:
    """How an address has voted.

    Attributes:
        address: Keyed hash of the address.
        votes: Its votes.
        not_counted: Those that ratings do not count.
        sessions: In how many sessions.
        battles: On how many battles.
        best: How many votes named a best answer.
        favourite: The model that was called best most often; empty when none was.
        favourite_best: How often it was.
        first: Time of the first vote, in unix seconds.
        last: Of the last one.
    """

    address: str
    votes: int
    not_counted: int
    sessions: int
    battles: int
    best: int
    favourite: str
    favourite_best: int
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote as ratings count it.

    Attributes:
        battle: The battle's id.
        models: The models of its good answers, by column; the same one may stand there twice.
        verdict: As in `Vote`.
        best: Index in `models` of the best one; `None` with the other verdicts.
        time: When the vote was cast, in unix seconds.
    """

    battle: str
    models: tuple[str, ...]
    verdict: Verdict
    best: int | None = None
    time: float = 0.0


class Ballots(Protocol):
    """Keeps battles and votes. Blocking: call it in a thread.

    Every method may raise `StoreError`.
    """

    def save(self, battle: Battle) -> None:
        """Store a battle with its answers; durable when this returns."""

    def keep(self, progress: Sequence[Progress]) -> Sequence[str]:
        """Store what battles have come to; durable when this returns.

        Doing it twice is as doing it once. Returns why each was refused; empty for what is stored.
        """

    def battle(self, id: str) -> Battle | None:  # noqa: A002
        """A battle; `None` when there is none of that id."""

    def vote(self, vote: Vote) -> None:
        """Cast a vote, or change the session's earlier one; durable when this returns.

        Raises `InvalidRequest` when there is nothing to vote on.
        """

    def votes(self, battle: str) -> Sequence[Vote]:
        """The votes on a battle, by time."""

    def voters(self, since: float, most: int) -> Sequence[Voter]:
        """The addresses that voted most since a unix time."""

    def tasks(self, most: int) -> Sequence[str]:
        """The tasks of battles that were voted on most often, by name."""

    def secret(self) -> bytes:
        """What addresses are hashed with: made once, then always the same."""

    def prune(self, before: float) -> int:
        """Delete battles from before a unix time on which nobody voted; returns how many went."""

    def ballots(self, since: float = 0.0, task: str | None = None) -> Sequence[Ballot]:
        """All votes cast since a unix time, by time; with a task only those on its battles."""
