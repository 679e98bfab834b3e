"""Law 2: write ahead. No step that cannot be undone happens before the entry that justifies it is durable."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from crossfoot.books.fate import Fate
from tests.laws.counter import Act, Service

SCENES = st.tuples(st.lists(st.sampled_from(Act), min_size=1, max_size=12), st.sampled_from((1, 1, 3)))

ENDS = {
    Act.BILL: Fate.SETTLED, Act.TELL: Fate.SETTLED, Act.RAISE_ONCE: Fate.SETTLED, Act.DECLINE: Fate.NOOP,
    Act.RAISE_ALWAYS: Fate.DEAD, Act.SWALLOW: Fate.DEAD,
}  # fmt: skip


@settings(max_examples=60)
@given(SCENES)
def test_every_ack_dead_letter_hand_back_and_publish_finds_its_reason_in_the_book(scene: tuple[list[Act], int]) -> None:
    acts, batch = scene
    with TemporaryDirectory() as folder:
        service = Service(Path(folder))
        service.work(acts, batch=batch, concurrency=2)

        assert service.witness.unjustified == []
        assert service.fates() == [ENDS[act] for act in acts]
