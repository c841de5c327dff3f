"""How files are cut into parts."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.storage.s3_transfers import MAX_PARTS, MIN_PART_BYTES, Transfers, plan_parts

MOST_BYTES = 5 << 40  # that an object of S3 can have


@given(st.integers(0, MOST_BYTES), st.integers(MIN_PART_BYTES, 1 << 30))
@example(0, MIN_PART_BYTES)
@example(MAX_PARTS * MIN_PART_BYTES, MIN_PART_BYTES)
@example(MAX_PARTS * MIN_PART_BYTES + 1, MIN_PART_BYTES)
@example(MOST_BYTES, MIN_PART_BYTES)
def test_parts_cover_a_file_and_are_as_s3_takes_them(num_bytes: int, part_bytes: int) -> None:
    plan = plan_parts(num_bytes, Transfers(part_bytes=part_bytes))
    assert 1 <= plan.num_parts <= MAX_PARTS
    assert plan.part_bytes >= part_bytes
    assert plan.num_parts * plan.part_bytes >= num_bytes
    assert (plan.num_parts - 1) * plan.part_bytes < max(1, num_bytes), "the last part has something"


@pytest.mark.parametrize("wrong", [{"part_bytes": MIN_PART_BYTES - 1}, {"parts_at_once": 0}])
def test_what_s3_would_refuse_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected parts of at least"):
        Transfers(**wrong)
