import inspect

from aviary.core import errors
from aviary.core.errors import AviaryError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]


def test_every_error_says_what_it_is() -> None:
    assert len(ALL) >= 20
    for kind in ALL:
        assert issubclass(kind, AviaryError)
        assert kind.__doc__
        assert 400 <= kind.status <= 599
        assert kind.who in {
            *("aviary", "spec", "client", "replica", "engine", "provider", "weights", "planner"),
            "store",
        }
        assert (kind.type == "server_error") == (kind.status >= 500)


def test_codes_are_distinct() -> None:
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes)
    assert all("code" in vars(kind) for kind in ALL)


def test_the_tree_in_the_docs_is_the_tree() -> None:
    for kind in ALL:
        assert kind.__name__ in (errors.__doc__ or "")


def test_a_retry_of_what_the_client_did_wrong_cannot_help() -> None:
    for kind in ALL:
        if kind.status in (400, 401, 403, 404, 413, 422):
            assert not kind.retryable


def test_fields() -> None:
    error = errors.Overloaded("Busy.", hint="Wait.", param="n", retry_after_s=2)
    assert (str(error), error.message, error.hint) == ("Busy. Wait.", "Busy.", "Wait.")
    assert (error.param, error.retry_after_s) == ("n", 2)
    assert str(AviaryError("Oh.")) == "Oh."
