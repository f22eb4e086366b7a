"""Every error Aviary raises on purpose.

The tree (children are more specific)::

    AviaryError
    ├── SpecError              a model spec or setting is wrong
    ├── InvalidRequest         the caller's request is wrong; retrying it unchanged cannot help
    │   ├── AlreadyVoted       the battle was voted on: its answers stay
    │   ├── PromptTooLong      prompt + output do not fit the context
    │   ├── RouteMissing       there is nothing at that path
    │   ├── MethodNotAllowed
    │   └── BodyTooLarge
    ├── ModelNotFound          no such model here
    ├── NotAuthorized          no key, or a wrong one
    │   └── Forbidden          the key is good, its role is not enough
    ├── BudgetExceeded         a key's budget or rate limit is used up
    ├── Overloaded             too much work right now; retry after `retry_after_s`
    │   └── Unavailable        no replica became ready in time
    ├── EngineError            the engine failed
    │   ├── StartFailed
    │   ├── TimedOut
    │   └── Crashed
    ├── ProviderError          a commercial API failed
    ├── WeightsError           weights cannot be had (network, checksum, disk, permission)
    ├── DoesNotFit             memory does not suffice
    ├── NotAvailable           declared, but not offered by this version or installation
    └── StoreError             the database failed

Each error has a stable `code` for programs, says `who` failed, whether a retry helps, and a `hint`
that says what to do. `status` is the HTTP status it becomes.
"""

from __future__ import annotations

from typing import ClassVar


class AviaryError(Exception):
    """Base of all errors Aviary raises on purpose.

    Args:
        message: What went wrong, and where, in one sentence.
        hint: What to do about it; empty when the message already says so.
        param: The request or spec field at fault, when there is one.
        retry_after_s: Seconds after which a retry may succeed; `None` when unknown.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    who: ClassVar[str] = "aviary"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class SpecError(AviaryError):
    """A model spec or a setting is wrong."""

    code = "invalid_spec"
    status = 422
    type = "invalid_request_error"
    who = "spec"


class InvalidRequest(AviaryError):
    """The request cannot be served as it is."""

    code = "invalid_request"
    status = 400
    type = "invalid_request_error"
    who = "client"


class AlreadyVoted(InvalidRequest):
    """Somebody has voted on the battle: its answers stay as they are."""

    code = "already_voted"
    status = 409


class PromptTooLong(InvalidRequest):
    """Prompt (and the output it asks for) exceed the model's context."""

    code = "context_length_exceeded"


class RouteMissing(InvalidRequest):
    """There is nothing at that path."""

    code = "not_found"
    status = 404


class MethodNotAllowed(InvalidRequest):
    """The path exists, the method does not."""

    code = "method_not_allowed"
    status = 405


class BodyTooLarge(InvalidRequest):
    """The request's body is larger than the gateway accepts."""

    code = "body_too_large"
    status = 413


class ModelNotFound(AviaryError):
    """No model of that name is served here."""

    code = "model_not_found"
    status = 404
    type = "invalid_request_error"
    who = "client"


class NotAuthorized(AviaryError):
    """No API key was given, or it is wrong or revoked."""

    code = "invalid_api_key"
    status = 401
    type = "invalid_request_error"
    who = "client"


class Forbidden(NotAuthorized):
    """The API key is good, but its role does not allow this."""

    code = "forbidden"
    status = 403
    type = "permission_error"


class BudgetExceeded(AviaryError):
    """The key's budget or rate limit is used up."""

    code = "budget_exceeded"
    status = 429
    type = "rate_limit_error"
    who = "client"
    retryable = True


class Overloaded(AviaryError):
    """The model has more work than it may queue."""

    code = "overloaded"
    status = 429
    type = "rate_limit_error"
    who = "replica"
    retryable = True


class Unavailable(Overloaded):
    """No replica became ready within the model's stated wait."""

    code = "model_not_ready"
    status = 503
    type = "server_error"


class EngineError(AviaryError):
    """The engine failed while it served a request."""

    code = "engine_error"
    status = 502
    who = "engine"
    retryable = True


class StartFailed(EngineError):
    """The engine did not start, or its readiness generation failed."""

    code = "engine_start_failed"
    status = 503


class TimedOut(EngineError):
    """The engine did not answer in time."""

    code = "engine_timeout"
    status = 504


class Crashed(EngineError):
    """The engine or its replica died."""

    code = "replica_crashed"
    status = 502


class ProviderError(AviaryError):
    """A commercial API failed."""

    code = "provider_error"
    status = 502
    who = "provider"
    retryable = True


class WeightsError(AviaryError):
    """The weights cannot be had."""

    code = "weights_error"
    status = 503
    who = "weights"


class DoesNotFit(AviaryError):
    """The model does not fit the memory at hand."""

    code = "does_not_fit"
    status = 422
    type = "invalid_request_error"
    who = "planner"


class NotAvailable(AviaryError):
    """A feature is declared but not offered by this version or installation."""

    code = "not_available"
    status = 501
    who = "aviary"


class StoreError(AviaryError):
    """The database failed."""

    code = "store_error"
    status = 503
    who = "store"
    retryable = True
