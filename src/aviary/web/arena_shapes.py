"""What the routes of battles, votes and the leaderboard take and answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, Field

from aviary.arena.leaderboard import How, Row
from aviary.core.preference import Battle, BattleAnswer, Verdict, Vote

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
    text: str
    finish_reason: str
    ttft_ms: float | None
    latency_ms: float
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    error: str = Field(description="Code of the error; empty when the answer is whole.")

    @classmethod
    def of(cls, answer: BattleAnswer, *, named: bool) -> AnswerColumn:
        """From the store's; without `named`, nothing that tells which model it is."""
        shown = asdict(answer)
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
            columns=[AnswerColumn.of(answer, named=named) for answer in battle.answers],
            votes=counts,
            vote=None if mine is None else CastVote.of(mine),
        )


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

    @classmethod
    def of(cls, row: Row) -> LeaderboardRow:
        """From the arena's."""
        return cls(**asdict(row) | {"tags": list(row.tags)})


class Leaderboard(BaseModel):
    """All models, the best first."""

    votes: int = Field(description="Votes in the period, those that found all bad included.")
    rows: list[LeaderboardRow]


class NewChoice(BaseModel):
    """Which model to choose."""

    how: How
    among: list[str] | None = Field(default=None, description="Only of these; null: of all.")


class Choice(BaseModel):
    """The model that was chosen."""

    model: str
    how: How
    why: str


Format = Literal["json", "csv"]
