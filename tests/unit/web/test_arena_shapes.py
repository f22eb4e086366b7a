"""What the routes of the arena take."""

import pytest
from pydantic import ValidationError

from aviary.web.arena_shapes import NewChoice


def test_a_choice_is_among_so_many_at_most() -> None:
    assert NewChoice(how="best").among is None
    assert len(NewChoice(how="best", among=["m"] * 200).among or ()) == 200
    with pytest.raises(ValidationError, match="more than 200 models"):
        NewChoice(how="best", among=["m"] * 201)
