"""The rule of the limits of submissions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.config.settings import load
from filemill.domain.files import NewFile
from filemill.domain.limits import LimitExceeded, Limits, Usage, burst_left, limit_key, size_of, use
from filemill.domain.permissions import Principal, RequestSource, Role, local_admin

NOW = 1_800_000_000.0
DAY = 86_400
FILE = NewFile("t", "dé", parameters='{"a": 1}')


def count(limits: Limits, times: list[float]) -> int:
    """How many of the requests at these times are accepted."""
    usage, accepted = Usage(), 0
    for at in times:
        try:
            usage = use(limits, usage, at, [FILE])
        except LimitExceeded:
            continue
        accepted += 1
    return accepted


def test_a_burst_is_accepted_at_once_and_then_one_each_interval() -> None:
    limits = Limits(writes_per_second=2, burst=5)
    assert count(limits, [NOW] * 20) == 5
    assert count(limits, [NOW] * 20 + [NOW + 0.5] * 20) == 6
    assert count(limits, [NOW] * 20 + [NOW + 0.49] * 20) == 5
    assert count(limits, [NOW] * 20 + [NOW + 100] * 20) == 10


@given(
    rate=st.sampled_from([0.1, 1.0, 3.0, 100.0]),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 5), max_size=100),
)
def test_no_more_than_the_burst_and_the_rate_in_any_time(rate: float, burst: int, gaps: list[float]) -> None:
    limits, usage, now = Limits(writes_per_second=rate, burst=burst), Usage(), NOW
    accepted: list[float] = []
    for gap in gaps:
        now += gap
        left = burst_left(limits, usage, now)
        try:
            usage = use(limits, usage, now, [FILE])
        except LimitExceeded as exceeded:
            assert left == 0
            use(limits, usage, now + exceeded.retry_after, [FILE])  # it is accepted when the response says
        else:
            assert left > 0
            accepted.append(now)
    for first in range(len(accepted)):
        for last in range(first, len(accepted)):
            assert last - first + 1 <= burst + rate * (accepted[last] - accepted[first]) + 1e-3


def test_files_in_flight_and_bytes_are_limited_exactly() -> None:
    limits, usage = Limits(files_in_flight=3), Usage(in_flight=2)
    assert use(limits, usage, NOW, [FILE]).in_flight == 3
    with pytest.raises(LimitExceeded, match="2 of your files") as refused:
        use(limits, usage, NOW, [FILE, FILE])
    assert (refused.value.code, refused.value.remaining, refused.value.policy.quota) == (
        "too_many_files_in_flight",
        1,
        3,
    )
    assert size_of(FILE) == 1 + 3 + 8
    limits = Limits(bytes_per_day=24)
    used = use(limits, use(limits, Usage(), NOW, [FILE]), NOW, [FILE])
    assert used.bytes == 24
    with pytest.raises(LimitExceeded) as refused:
        use(limits, used, NOW, [NewFile("x")])
    assert refused.value.code == "too_many_bytes_today"
    assert refused.value.retry_after == DAY - NOW % DAY
    assert use(limits, used, NOW + refused.value.retry_after, [FILE]).bytes == 12


def test_without_limits_everything_is_accepted() -> None:
    assert not Limits().active
    assert count(Limits(), [NOW] * 1000) == 1000


@pytest.mark.parametrize(
    ("principal", "key"),
    [
        (Principal("ann", Role.SUBMITTER, source=RequestSource("session:0", "10.0.0.1")), "name ann"),
        (Principal("ann", Role.SUBMITTER, 7, RequestSource("", "10.0.0.1")), "name ann"),
        (Principal("proxy:ann", Role.SUBMITTER, source=RequestSource("proxy", "10.0.0.1")), "name proxy:ann"),
        (Principal("token:10.0.0.1", Role.ADMIN, source=RequestSource("launch token", "10.0.0.1")), "address 10.0.0.1"),
        (Principal("rest:10.0.0.1", Role.ADMIN, source=RequestSource("local", "10.0.0.1")), "address 10.0.0.1"),
        (local_admin("page", RequestSource("local", "10.0.0.1")), "address 10.0.0.1"),
        (local_admin("lab"), None),
        (local_admin("cli:ann", RequestSource("cli")), None),
    ],
)
def test_people_have_limits_and_addresses_where_nobody_signs_in(principal: Principal, key: str | None) -> None:
    assert limit_key(principal) == key


def test_limits_are_off_without_sign_in_unless_they_are_set() -> None:
    assert not load().limits.active
    assert load().heavy_reads == 0
    signed_in = load(auth="accounts")
    assert signed_in.limits == Limits(100, 1000, 100_000, 10 * 1024**3)
    assert signed_in.heavy_reads == 1
    off = load(auth="accounts", limit_writes_per_second=0, limit_files_in_flight=0, limit_bytes_per_day=0)
    assert not off.limits.active
    assert load(limit_writes_per_second=5).limits == msgspec.structs.replace(Limits(), writes_per_second=5, burst=1000)
