"""What the routes of battles, votes and the leaderboard take and answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from aviary.arena.leaderboard import How, Row
from aviary.core.preference import Battle, BattleAnswer, Verdict, Vote, Voter

UNFINISHED = "unfinished"
"""Error of a column of which no answer was stored."""
SHOWN_HASH = 12
MOST_AMONG = 200
ONE_SIDED_VOTES = 10
ONE_SIDED_SHARE = 0.9
Session = Field(min_length=1, max_length=64, description="A name that the browser made up.")


class NewVote(BaseModel):
    """A vote to cast, or to change."""

    battle: str = Field(max_length=64)
    session: str = Session
    verdict: Verdict
    column: int | None = Field(default=None, description="The best one's; with `best` only.")
    reason: str = Field(default="", max_length=2000)


class CastVote(BaseModel):
    """A session's vote."""

    verdict: Verdict
    column: int | None
    reason: str
    time: float = Field(description="Unix time in seconds.")

    @classmethod
    def of(cls, vote: Vote) -> CastVote:
        """From the store's."""
        return cls(verdict=vote.verdict, column=vote.column, reason=vote.reason, time=vote.time)


class AnswerColumn(BaseModel):
    """One answer of a battle."""

    column: int
    model: str | None = Field(description="Null while the battle is blind to this session.")
    spec_hash: str | None
    parameters: dict[str, Any] | None
    messages: list[dict[str, Any]] = Field(description="Its own turns before the battle's.")
    text: str
    finish_reason: str
    ttft_ms: float | None
    latency_ms: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    error: str = Field(
        description="Code of the error; empty when the answer is whole; `unfinished`: none came."
    )

    @classmethod
    def of(
        cls, answer: BattleAnswer, *, named: bool, messages: list[dict[str, Any]]
    ) -> AnswerColumn:
        """From the store's; without `named`, nothing that tells which model it is."""
        shown = asdict(answer) | {"messages": messages}
        if not named:
            shown |= {"model": None, "spec_hash": None, "parameters": None}
        return cls(**shown)


class StoredBattle(BaseModel):
    """A battle, as whoever knows its id may see it."""

    id: str
    created: float = Field(description="Unix time in seconds.")
    messages: list[dict[str, Any]]
    system: str
    blind: bool
    task: str
    columns: list[AnswerColumn]
    votes: dict[Verdict, int] = Field(description="All sessions' votes.")
    vote: CastVote | None = Field(description="This session's.")

    @classmethod
    def of(cls, battle: Battle, votes: list[Vote], session: str) -> StoredBattle:
        """From the store's, as a session may see it."""
        mine = next((vote for vote in votes if session and vote.session == session), None)
        named = not battle.blind or mine is not None
        counts: dict[Verdict, int] = {"best": 0, "tie": 0, "all_bad": 0}
        for vote in votes:
            counts[vote.verdict] += 1
        return cls(
            id=battle.id,
            created=battle.created,
            messages=battle.messages,
            system=battle.system,
            blind=battle.blind,
            task=battle.task,
            columns=_columns(battle, named=named),
            votes=counts,
            vote=None if mine is None else CastVote.of(mine),
        )


def _columns(battle: Battle, *, named: bool) -> list[AnswerColumn]:
    """All columns, also those that have not ended, or never will since their worker died."""
    answers = {answer.column: answer for answer in battle.answers}
    turns: dict[int, list[dict[str, Any]]] = {}
    for number, contestant in enumerate(battle.lineup):
        turns[number] = contestant.messages
        if number not in answers:
            answers[number] = BattleAnswer(
                number, contestant.model, parameters=contestant.parameters, error=UNFINISHED
            )
    return [
        AnswerColumn.of(answers[number], named=named, messages=turns.get(number, []))
        for number in sorted(answers)
    ]


class VotingAddress(BaseModel):
    """How an address has voted in a period."""

    address: str = Field(description="Beginning of a keyed hash: tells addresses apart, no more.")
    votes: int
    not_counted: int = Field(description="Votes that ratings do not count.")
    sessions: int
    battles: int
    favourite: str | None = Field(description="The model it called best most often.")
    favourite_share: float | None = Field(description="Of its votes that named a best answer.")
    one_sided: bool = Field(description="It called hardly any other model best.")
    first: float = Field(description="Unix time in seconds.")
    last: float

    @classmethod
    def of(cls, voter: Voter) -> VotingAddress:
        """From the store's."""
        share = voter.favourite_best / voter.best if voter.best else None
        return cls(
            address=voter.address[:SHOWN_HASH],
            votes=voter.votes,
            not_counted=voter.not_counted,
            sessions=voter.sessions,
            battles=voter.battles,
            favourite=voter.favourite or None,
            favourite_share=share,
            one_sided=voter.best >= ONE_SIDED_VOTES and (share or 0.0) >= ONE_SIDED_SHARE,
            first=voter.first,
            last=voter.last,
        )


class Abuse(BaseModel):
    """Addresses whose votes one should look at, those with most votes first."""

    since: float = Field(description="Unix time in seconds.")
    counted_a_day: int = Field(description="So many votes of an address count within 24 hours.")
    counted_a_battle: int = Field(description="So many of them on the same battle.")
    addresses: list[VotingAddress]


class LeaderboardRow(BaseModel):
    """One model; null is what is not known."""

    model: str
    served: bool
    tags: list[str]
    rank: int | None = Field(description="Shared by models that the votes do not tell apart.")
    rating: float | None = Field(description="Bradley-Terry; mean 1000, 400 points are 10 to 1.")
    low: float | None = Field(description="Lower end of the rating's 95 % interval.")
    high: float | None
    votes: int
    pairs: int
    win_rate: float | None = Field(description="Share of pairs won; a tie counts half.")
    ttft_p50_ms: float | None
    tokens_per_s: float | None
    mean_answer_tokens: float | None
    cost_per_answer_usd: float | None
    cost_per_million_tokens_usd: float | None
    answers: int = Field(description="How many answers speed and cost are made from.")
    last_seen: float | None = Field(description="Unix time in seconds.")
    judge: float | None = Field(description="By judge models; null until there are evaluations.")

    @classmethod
    def of(cls, row: Row) -> LeaderboardRow:
        """From the arena's."""
        return cls(**asdict(row) | {"tags": list(row.tags)})


class Leaderboard(BaseModel):
    """All models, the best first."""

    votes: int = Field(description="Votes in the period, those that found all bad included.")
    tasks: list[str] = Field(description="Tasks of battles that were voted on, for `task`.")
    tags: list[str] = Field(description="Tags of models that are served, for `tag`.")
    rows: list[LeaderboardRow]


class NewChoice(BaseModel):
    """Which model to choose."""

    how: How
    among: list[str] | None = Field(default=None, description="Only of these; null: of all.")

    @field_validator("among")
    @classmethod
    def _not_too_many(cls, among: list[str] | None) -> list[str] | None:
        if among is not None and len(among) > MOST_AMONG:
            raise ValueError(f"more than {MOST_AMONG} models")
        return among


class Choice(BaseModel):
    """The model that was chosen."""

    model: str
    how: How
    why: str


Format = Literal["json", "csv"]
