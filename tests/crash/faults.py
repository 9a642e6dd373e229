"""The faults of a process and its connection, and what a play with one of them is compared with."""

import random
from collections.abc import Iterator

from tests.crash.harness import QUIET_SECONDS, Play, Scenario, Start, play
from tests.crash.invariants import check_all
from tests.fakes.kubernetes import FakeCluster, Faults
from tests.fakes.operator import FakeOperator

REPEATED_WRITES = 3
"""One fault costs at most so many writes more than the reference needs (P6)."""
RESYNC_SECONDS = 300.0
"""As in production, where the interval is between 300 s and 600 s."""
QUIET_AFTER_RESYNC_SECONDS = RESYNC_SECONDS + QUIET_SECONDS
BLIND_SECONDS = 3
KEYS = 2
"""The job and the classes: each tries a refused write again after a second, for as long as its cache is old."""

_references: dict[str, Play] = {}


# --- processes -----------------------------------------------------------------------------------------------
def having(faults: Faults) -> Start:
    return lambda cluster: FakeOperator(cluster, faults=faults)


def with_old_list(behind: int) -> Start:
    """Its first list is so many changes old, and so is its cache until its watch catches up."""
    return having(Faults(behind=behind, blind_seconds=BLIND_SECONDS))


def with_losses(seed: int) -> Start:
    """Three events in ten never arrive."""
    source = random.Random(seed)

    def begin(cluster: FakeCluster) -> FakeOperator:
        faults = Faults(delivery=lambda position: () if source.random() < 0.3 else (0.0,))
        return FakeOperator(cluster, faults=faults, resync_seconds=RESYNC_SECONDS)

    return begin


def with_disorder(seed: int) -> Start:
    """Each event arrives up to 30 s late, each third of them twice."""
    source = random.Random(seed)

    def delivery(position: int) -> list[float]:
        return [source.uniform(0, 30) for _ in range(source.choice((1, 1, 2)))]

    return having(Faults(delivery=delivery))


def with_pauses(seed: int) -> Start:
    """Each call lets others run a random number of times."""
    source = random.Random(seed)
    return lambda cluster: FakeOperator(cluster, pauses=_forever(source))


def _forever(source: random.Random) -> Iterator[int]:
    while True:
        yield source.randrange(5)


def with_latency(seed: int) -> Start:
    """Each call takes up to 8 s, in which pods start and end."""
    source = random.Random(seed)

    def latency() -> Iterator[float]:
        while True:
            yield source.uniform(0, 8)

    return lambda cluster: FakeOperator(cluster, latency=latency())


# --- the outcome ---------------------------------------------------------------------------------------------
def reference(scenario: Scenario) -> Play:
    """The same without any fault."""
    if scenario.name not in _references:
        _references[scenario.name] = play(scenario)
    return _references[scenario.name]


def assert_same_end(
    scenario: Scenario, fault: str, result: Play, writes: int | None = None, refused: float = REPEATED_WRITES
) -> None:
    """At most so many writes are committed, and so many refused."""
    expected = reference(scenario)
    is_blind = len(result.operators) > 1 or refused > REPEATED_WRITES
    assert result.ending(without_evidence=is_blind) == expected.ending(without_evidence=is_blind), fault
    check_all(result)
    most = (len(expected.writes) + REPEATED_WRITES) if writes is None else writes
    committed = len(result.writes) - result.refused
    assert committed <= most, f"{fault}: {committed} writes, at most {most} (P6)"
    assert result.refused <= refused, f"{fault}: {result.refused} refused writes, at most {refused} (P6)"
