"""What is paused and resumed, and how much is asked for."""

import random
from collections import deque

from filemill.processing.intake import SPAN_RECORDS, Intake, Load


def loads(*unfinished: int) -> dict[int, Load]:
    return {partition: Load(count, count) for partition, count in enumerate(unfinished)}


def test_a_full_worker_reads_nothing_and_goes_on_at_three_quarters() -> None:
    intake = Intake(100, 100)
    assert intake.decide(loads(50, 49), held=False) == ([], [])
    assert intake.decide(loads(50, 50), held=False) == ([0, 1], [])
    assert intake.decide(loads(40, 36), held=False) == ([], [])
    assert intake.decide(loads(40, 35), held=False) == ([], [0, 1]), "both hold much: nobody goes first"


def test_a_full_partition_stops_itself_and_nobody_else() -> None:
    intake = Intake(100, 10)
    assert intake.decide(loads(10, 3), held=False) == ([0], [])
    assert intake.decide(loads(8, 9), held=False) == ([], [])
    assert intake.decide(loads(7, 10), held=False) == ([1], [0])


def test_a_partition_that_runs_far_ahead_of_its_oldest_record_waits_for_it() -> None:
    intake = Intake(100, 100)
    assert intake.decide({0: Load(1, SPAN_RECORDS)}, held=False) == ([0], [])
    assert intake.decide({0: Load(1, SPAN_RECORDS - 1)}, held=False) == ([], [])
    assert intake.decide({0: Load(0, 0)}, held=False) == ([], [0])


def test_on_hold_nothing_is_read() -> None:
    intake = Intake(100, 100)
    assert intake.decide(loads(1, 0), held=True) == ([0, 1], [])
    assert intake.paused
    assert intake.decide(loads(1, 0), held=False) == ([], [0, 1])


def test_what_comes_is_read_and_paused_again_where_the_worker_is_full() -> None:
    intake = Intake(10, 10)
    assert intake.decide(loads(10), held=False) == ([0], [])
    intake.came([1])
    assert intake.decide(loads(10, 0), held=False) == ([1], [])
    intake.went([0])
    assert intake.decide({1: Load(0, 0)}, held=False) == ([], [1])


def test_no_bound_is_passed_whatever_comes() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        intake, held = Intake(50, 20), {0: 0, 1: 0, 2: 0}
        paused: set[int] = set()
        for _ in range(200):
            state = {partition: Load(count, count) for partition, count in held.items()}
            open_ones = sorted(set(held) - paused)
            if open_ones:
                taken = chance.randint(0, intake.room(state))
                # One record may come beyond a bound: asking for none would be leaving the group.
                held[chance.choice(open_ones)] += taken
            assert sum(held.values()) <= 51
            assert max(held.values()) <= 21
            held = {partition: count - chance.randint(0, min(3, count)) for partition, count in held.items()}
            pause, resume = intake.decide({p: Load(c, c) for p, c in held.items()}, held=False)
            paused = paused | set(pause) - set(resume)
            paused -= set(resume)


def test_half_of_its_even_share_is_kept_for_each_that_has_less() -> None:
    intake = Intake(90, 90)
    assert intake.room(loads(0, 0, 0)) == 60, "15 are kept for each of the others"
    assert intake.decide(loads(59, 0, 0), held=False) == ([], [])
    assert intake.decide(loads(60, 0, 0), held=False) == ([0], [])
    assert not intake.paused
    assert intake.room(loads(60, 0, 0)) == 15
    assert intake.decide(loads(60, 15, 3), held=False) == ([1], []), "what is left is the last one's"
    assert intake.decide(loads(60, 15, 15), held=False) == ([2], [])
    assert intake.paused
    assert intake.decide(loads(43, 15, 12), held=False) == ([], []), "a pause drops what was fetched: not for a few"
    assert intake.decide(loads(43, 15, 11), held=False) == ([], [2])
    assert intake.decide(loads(37, 15, 15), held=False) == ([], [0, 1])


def test_a_worker_with_one_partition_keeps_nothing_back() -> None:
    assert Intake(90, 90).room(loads(0)) == 90


def test_fewer_places_than_partitions_are_whoevers_comes_first() -> None:
    assert Intake(2, 2).room(loads(0, 0, 0)) == 2


def test_no_partition_starves_behind_a_neighbour_that_is_always_quicker() -> None:
    """The client gives the first partition's records first, always; and there are always some."""
    intake = Intake(100, 100)
    in_progress: deque[int] = deque()  # partitions of what is held, the oldest first
    paused: set[int] = set()
    taken = dict.fromkeys(range(3), 0)

    def state() -> dict[int, Load]:
        return {partition: Load(in_progress.count(partition), 0) for partition in taken}

    for _ in range(2000):
        first = min(set(taken) - paused, default=None)
        if first is not None:
            count = intake.room(state())
            in_progress.extend([first] * count)
            taken[first] += count
        pause, resume = intake.decide(state(), held=False)
        paused = (paused | set(pause)) - set(resume)
        for _ in range(min(5, len(in_progress))):
            in_progress.popleft()
    assert min(taken.values()) > 0.15 * sum(taken.values()), taken
