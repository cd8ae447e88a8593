"""How ids are made."""

from uuid import RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from shared.ids import named_id, new_id, random_id


@given(st.uuids(), st.text(max_size=200).filter(lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text))
def test_a_named_id_is_the_one_that_everybody_makes_of_a_name(namespace: UUID, name: str) -> None:
    made, other = named_id(namespace, name), uuid5(namespace, name)
    assert made == other
    assert other == made
    assert (hash(made), str(made)) == (hash(other), str(other))
    assert isinstance(made, UUID)


def test_other_ids_say_how_they_were_made_and_never_come_twice() -> None:
    for make, version in ((random_id, 4), (new_id, 7)):
        made = {make() for _ in range(1000)}
        assert {(each.version, each.variant) for each in made} == {(version, RFC_4122)}
        assert len(made) == 1000
