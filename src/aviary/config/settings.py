"""Settings of this installation: where state, cache and sockets live.

Read from the environment (`AVIARY_…`) once, at start, and passed on: child processes are told what
they need and read no settings of their own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from aviary.core.errors import StartFailed


class Settings(BaseSettings):
    """Settings of this installation.

    Every field can be set by an environment variable: `AVIARY_HOME`, `AVIARY_CACHE`, ….

    Attributes:
        home: State that must survive: databases and logs.
        cache: Weights and other files that can be fetched again.
        runtime: Parent folder for sockets of running instances; short, since socket paths are.
        database_url: SQLAlchemy URL of the store; left out: SQLite files under `home`.
        url: Where the CLI finds a running Aviary.
        api_key: The key the CLI sends.
        cluster_token: What the parts of one Aviary know, to tell each other from strangers; needed
            for gateways on other machines (`aviary up --control`, `aviary gateway`).
        memory_gb: Memory that all models of a node may use together; left out: nine tenths of the
            machine's. What does not fit rests, the least recently used first.
        visitors: Whether people without a key may compare models and vote, though keys are needed
            for all else.
        request_log_days: How many days the request log keeps its records.
        max_body_mb: Largest request body the gateway accepts, in MiB.
        log_level: Least level that is logged.
        log_format: `console` for people, `json` for programs.
    """

    model_config = SettingsConfigDict(env_prefix="AVIARY_", extra="ignore", frozen=True)

    home: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("aviary")))
    cache: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("aviary")))
    runtime: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()))
    database_url: str | None = None
    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    cluster_token: str | None = Field(default=None, repr=False)
    memory_gb: float | None = Field(default=None, gt=0)
    visitors: bool = True
    request_log_days: int = Field(default=90, ge=1)
    max_body_mb: int = Field(default=32, ge=1, le=1024)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"

    @property
    def weights_dir(self) -> Path:
        """The content-addressed weight cache."""
        return self.cache / "weights"

    @property
    def log_dir(self) -> Path:
        """Log files of replicas and gateway workers."""
        return self.home / "logs"

    def store_url(self, name: Literal["state", "requests"]) -> str:
        """SQLAlchemy URL of one of the two databases.

        On SQLite the busy request log has a file of its own, so that it cannot hold up the state;
        on a server (`database_url`) both are one database.
        """
        if self.database_url:
            return self.database_url
        return f"sqlite:///{quote(str(self.home / f'{name}.db'))}"

    def require_shared_store(self, why: str, command: str) -> None:
        """Refuse what several machines do together while the store is files of this one.

        Args:
            why: What needs another store, as the beginning of a sentence.
            command: The command that was given, to be repeated with a database.

        Raises:
            StartFailed: it is refused; says what to run.
        """
        if not (self.database_url or "").startswith("postgresql"):
            raise StartFailed(
                f"{why}: PostgreSQL.",
                hint=f"Run `AVIARY_DATABASE_URL=postgresql://USER:PASSWORD@HOST/NAME {command}`.",
            )
