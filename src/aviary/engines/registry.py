"""The one place that knows which class serves which engine kind."""

from __future__ import annotations

from aviary.config.places import Places
from aviary.config.spec import FakeEngine, LlamaCppEngine, ModelSpec
from aviary.core.errors import NotAvailable
from aviary.core.ports import Engine

AVAILABLE = frozenset({"llamacpp", "fake"})


def check_available(spec: ModelSpec) -> None:
    """Raise `NotAvailable` for what can be declared but not served by this version."""
    if spec.engine.kind not in AVAILABLE:
        raise NotAvailable(
            f"{spec.id}: engines of kind {spec.engine.kind} are not available in this version.",
            hint=f"Available: {', '.join(sorted(AVAILABLE))}.",
        )
    if spec.adapters:
        raise NotAvailable(f"{spec.id}: adapters are not available in this version.")


def create_engine(spec: ModelSpec, places: Places) -> Engine:
    """Make (not start) the engine that the spec asks for.

    Raises:
        NotAvailable: this version has no engine of that kind.
    """
    check_available(spec)
    match spec.engine:
        case FakeEngine():
            from aviary.engines.fake import FakeTextEngine

            return FakeTextEngine(spec.engine)
        case LlamaCppEngine():
            from aviary.engines.llamacpp import LlamaCpp

            return LlamaCpp(spec, spec.engine, places)
        case _:
            raise NotAvailable(f"{spec.id}: no engine of kind {spec.engine.kind}.")
