"""What is paused and resumed, and how much is asked for."""

import random
from collections import deque

from filemill.processing.intake import FIRST_SECONDS, SPAN_RECORDS, Intake, Load


def loads(*unfinished: int) -> dict[int, Load]:
    return {partition: Load(count, count) for partition, count in enumerate(unfinished)}


def test_a_full_worker_reads_nothing_and_goes_on_at_three_quarters() -> None:
    intake = Intake(100, 100)
    assert intake.decide(loads(50, 49), 0.0, held=False) == ([], [])
    assert intake.decide(loads(50, 50), 0.0, held=False) == ([0, 1], [])
    assert intake.decide(loads(40, 36), 0.0, held=False) == ([], [])
    assert intake.decide(loads(40, 35), 0.0, held=False) == ([], [0, 1]), "both hold much: nobody goes first"


def test_a_full_partition_stops_itself_and_nobody_else() -> None:
    intake = Intake(100, 10)
    assert intake.decide(loads(10, 3), 0.0, held=False) == ([0], [])
    assert intake.decide(loads(8, 9), 0.0, held=False) == ([], [])
    assert intake.decide(loads(7, 10), 0.0, held=False) == ([1], [0])


def test_a_partition_that_runs_far_ahead_of_its_oldest_record_waits_for_it() -> None:
    intake = Intake(100, 100)
    assert intake.decide({0: Load(1, SPAN_RECORDS)}, 0.0, held=False) == ([0], [])
    assert intake.decide({0: Load(1, SPAN_RECORDS - 1)}, 0.0, held=False) == ([], [])
    assert intake.decide({0: Load(0, 0)}, 0.0, held=False) == ([], [0])


def test_on_hold_nothing_is_read() -> None:
    intake = Intake(100, 100)
    assert intake.decide(loads(1, 0), 0.0, held=True) == ([0, 1], [])
    assert intake.paused
    assert intake.decide(loads(1, 0), 0.0, held=False) == ([], [0, 1])


def test_what_comes_is_read_and_paused_again_where_the_worker_is_full() -> None:
    intake = Intake(10, 10)
    assert intake.decide(loads(10), 0.0, held=False) == ([0], [])
    intake.came([1])
    assert intake.decide(loads(10, 0), 0.0, held=False) == ([1], [])
    intake.went([0])
    assert intake.decide({1: Load(0, 0)}, 0.0, held=False) == ([], [1])


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
            pause, resume = intake.decide({p: Load(c, c) for p, c in held.items()}, 0.0, held=False)
            paused = paused | set(pause) - set(resume)
            paused -= set(resume)


def test_after_a_pause_those_that_hold_little_are_read_first_and_then_all() -> None:
    intake = Intake(90, 90)
    assert intake.decide(loads(80, 10, 0), 1.0, held=False) == ([0, 1, 2], [])
    assert intake.decide(loads(60, 5, 0), 2.0, held=False) == ([], [1, 2])
    assert intake.decide(loads(58, 5, 0), 2.0 + FIRST_SECONDS, held=False) == ([], [])
    assert intake.decide(loads(57, 5, 0), 2.1 + FIRST_SECONDS, held=False) == ([], [0])


def test_no_partition_starves_behind_a_neighbour_that_is_always_quicker() -> None:
    """The client gives the first partition's records first, always; and there are always some."""
    intake, now = Intake(100, 100), 0.0
    in_progress: deque[int] = deque()  # partitions of what is held, the oldest first
    paused: set[int] = set()
    taken = dict.fromkeys(range(3), 0)

    def state() -> dict[int, Load]:
        return {partition: Load(in_progress.count(partition), 0) for partition in taken}

    for _ in range(2000):
        now += 0.05
        first = min(set(taken) - paused, default=None)
        if first is not None:
            count = intake.room(state())
            in_progress.extend([first] * count)
            taken[first] += count
        pause, resume = intake.decide(state(), now, held=False)
        paused = (paused | set(pause)) - set(resume)
        for _ in range(min(5, len(in_progress))):
            in_progress.popleft()
    assert min(taken.values()) > 0.2 * sum(taken.values()), taken
