"""How many replicas a number of users take, and what a replica that dies costs: a simulation with measured times.

    python benchmarks/fleet.py --json benchmarks/results/fleet.json --plot docs/images/fleet.png

An event at a time (SimPy): turns come at random, a router sends each session to its replica, and an engine makes a
token of every turn in its batch with each step. A step's CPU time is a + c·n for n turns; a and c are fitted to what
was measured: on the embedded backbone (`benchmarks/serve.py`), and on SmolLM2-135M on vLLM (`benchmarks/on_vllm.py`).
Every replica has a core of its own. The store's figures are of a SQLite file with random bytes for memories.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import simpy

from common import command_line, tell
from deltamem.store import Commit, SessionStore

RESULTS = Path(__file__).parent / "results"
MOST, QUEUE = 16, 64
"""Turns that a replica makes together, and that may wait there beyond those: as `deltamem serve` has them."""
SLOWEST = 10.0
"""Seconds within which 95 of 100 turns shall be done."""
DAY = 86400
TOKENS = 64
"""Of a turn that `benchmarks/serve.py` measures."""


def main() -> int:
    parser = command_line(__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--turns", type=float, default=5, help="of a session a day")
    parser.add_argument("--peak", type=float, default=3, help="times the average load that the fullest hour has")
    parser.add_argument("--seconds", type=float, default=120, help="of each simulated run")
    parser.add_argument("--plot", metavar="PATH")
    options = parser.parse_args()
    own = own_engine(json.loads((RESULTS / "serve.json").read_text("utf-8")))
    vllm = on_vllm(json.loads((RESULTS / "on_vllm.json").read_text("utf-8")))
    rate = options.sessions * options.turns / DAY * options.peak
    report: dict[str, Any] = {
        "store": measure_store(),
        "sessions": options.sessions,
        "turns_a_day": options.turns,
        "peak": options.peak,
        "turns_per_second_at_peak": round(rate, 1),
        "fleets": {
            name: {"service": vars(service)} | fleet(service, rate, options.seconds)
            for name, service in (("embedded", own), ("smollm2_on_vllm", vllm))
        },
    }
    if options.plot:
        plot(report, Path(options.plot))
    return tell(report, options)


@dataclass(frozen=True)
class Service:
    """What a turn takes of a replica's CPU.

    Attributes:
        fixed: seconds of a step, however many turns are in the batch.
        each: seconds more for every turn in it.
        steps: of a turn.
        most: turns in a batch.
    """

    fixed: float
    each: float
    steps: int
    most: int = MOST

    @property
    def ceiling(self) -> float:
        """Turns a second of a replica whose batch is full."""
        return self.most / (self.steps * (self.fixed + self.most * self.each))


def fitted(points: list[tuple[int, float]], steps: int, most: int = MOST) -> Service:
    """The service whose CPU seconds of a turn are nearest to those measured for n turns at once, in shares of them."""
    # A turn of n takes steps · (fixed / n + each) = x / n + y. Least squares of (x / n + y) / t = 1.
    rows = [(1 / (n * t), 1 / t) for n, t in points]
    a, b, d = (sum(r[i] * r[j] for r in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    p, q = (sum(r[i] for r in rows) for i in (0, 1))
    x, y = (d * p - b * q) / (a * d - b * b), (a * q - b * p) / (a * d - b * b)
    return Service(x / steps, max(0.0, y) / steps, steps, most)


def own_engine(measured: dict[str, Any]) -> Service:
    """The embedded backbone on the own engine, whole turns."""
    points = [(run["batch"], run["cpu_ms_per_turn"] / 1000) for run in measured["by_batch"]]
    return fitted(points, TOKENS)


def one_replica(measured: dict[str, Any]) -> Service:
    """The embedded backbone by the runs with one replica."""
    alone = [run for run in measured["runs"] if run["replicas"] == 1]
    points = [(run["clients"], run["cpu_ms_per_turn"]["replicas"] / 1000) for run in alone]
    return fitted(points, measured["tokens"])


def on_vllm(measured: dict[str, Any]) -> Service:
    """SmolLM2-135M on vLLM, every token of which writes."""
    tokens = measured["prompt"] + measured["answer"]
    points = [(int(n), tokens / found["delta"]["tokens_s"]) for n, found in measured["sessions"].items()]
    return fitted(points, measured["answer"], most=max(n for n, _ in points))


@dataclass
class Turn:
    """A turn on its way.

    Attributes:
        session: whose it is.
        begun: when it was asked.
        done: set when it is over; to whether it was acknowledged.
        left: steps that are left of it.
    """

    session: int
    begun: float
    done: simpy.Event
    left: int = 0


class Replica:
    """An engine: all turns in its batch get a token with every step.

    Args:
        env: the simulation.
        service: what a step takes.
        core: where its steps run; others may share it.
    """

    def __init__(self, env: simpy.Environment, service: Service, core: simpy.Resource) -> None:
        self.env, self.service, self.core = env, service, core
        self.batch: list[Turn] = []
        self.waiting: list[Turn] = []
        self.alive = True
        self.busy = 0.0
        self._woken = env.event()
        env.process(self._run())

    def take(self, turn: Turn) -> bool:
        """Lets a turn in, unless too many wait."""
        if len(self.batch) + len(self.waiting) >= self.service.most + QUEUE:
            return False
        turn.left = self.service.steps
        self.waiting.append(turn)
        if not self._woken.triggered:
            self._woken.succeed()
        return True

    def die(self) -> None:
        """Takes what it had along."""
        self.alive = False
        for turn in [*self.batch, *self.waiting]:
            turn.done.succeed(False)
        self.batch, self.waiting = [], []

    def _run(self) -> Generator[Any, Any, None]:
        while True:
            if not (self.batch or self.waiting):
                self._woken = self.env.event()
                yield self._woken
            room = self.service.most - len(self.batch)
            self.batch += self.waiting[:room]
            self.waiting = self.waiting[room:]
            stepping = list(self.batch)
            if not stepping:
                continue
            seconds = self.service.fixed + self.service.each * len(stepping)
            with self.core.request() as turn_of_core:
                yield turn_of_core
                yield self.env.timeout(seconds)
            self.busy += seconds
            if not self.alive:
                return
            for turn in stepping:
                turn.left -= 1
            for turn in [turn for turn in self.batch if turn.left <= 0]:
                self.batch.remove(turn)
                turn.done.succeed(True)


@dataclass
class Outcome:
    """What became of the turns.

    Attributes:
        latencies: seconds of each, asking again included, by when it was asked.
        refused: times that too many waited.
        repeated: times that a turn was lost with its replica, before it was acknowledged, and asked again.
    """

    latencies: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0
    repeated: int = 0

    def quantile(self, share: float, since: float = 0, until: float = float("inf")) -> float:
        """Of the latencies of turns that were asked in this time."""
        found = sorted(took for begun, took in self.latencies if since <= begun < until)
        return found[int(share * (len(found) - 1))] if found else float("nan")


class Fleet:
    """Replicas behind a router that keeps a session at one of them."""

    def __init__(self, env: simpy.Environment, replicas: list[Replica]) -> None:
        self.env, self.replicas, self.outcome = env, replicas, Outcome()

    def place(self, session: int) -> Replica:
        """The replica that a session goes to: the first one alive in an order of its own."""
        drawn = lambda n: hashlib.blake2b(f"{n} {session}".encode(), digest_size=8).digest()  # noqa: E731
        return self.replicas[min((n for n, one in enumerate(self.replicas) if one.alive), key=drawn)]

    def ask(self, session: int) -> Generator[Any, Any, None]:
        """A turn from its question to its acknowledgement, however often it is asked."""
        begun = self.env.now
        while True:
            turn = Turn(session, begun, self.env.event())
            if not self.place(session).take(turn):
                self.outcome.refused += 1
                yield self.env.timeout(1)
            elif (yield turn.done):
                self.outcome.latencies.append((begun, self.env.now - begun))
                return
            else:
                self.outcome.repeated += 1
                yield self.env.timeout(0.2)


def check(service: Service, measured: dict[str, Any]) -> dict[str, Any]:
    """The measured run with two replicas beside the same run simulated: all on one core, clients that wait.

    Seconds are of the core, so that what else the machine did is no part of them: those measured are multiplied with
    the share of a core that the run had.
    """
    (real,) = [run for run in measured["runs"] if run["replicas"] == 2]
    around = (real["cpu_ms_per_turn"]["router"] + real["cpu_ms_per_turn"]["clients"]) / 1000
    env = simpy.Environment()
    core = simpy.Resource(env)
    replicas = [Replica(env, service, core) for _ in range(2)]
    left, latencies = iter(range(real["turns"])), []

    def client(number: int) -> Generator[Any, Any, None]:
        while next(left, None) is not None:
            begun = env.now
            with core.request() as mine:
                yield mine
                yield env.timeout(around)
            turn = Turn(number, begun, env.event())
            replicas[number % 2].take(turn)
            yield turn.done
            latencies.append(env.now - begun)

    for number in range(real["clients"]):
        env.process(client(number))
    env.run()
    latencies.sort()
    simulated = {
        "turns_per_second_of_the_core": len(latencies) / env.now,
        "replicas_cpu_ms_per_turn": 1000 * sum(one.busy for one in replicas) / len(latencies),
        "median_latency_s_of_the_core": latencies[len(latencies) // 2],
        "p95_latency_s_of_the_core": latencies[int(0.95 * (len(latencies) - 1))],
    }
    found = {
        "turns_per_second_of_the_core": real["turns_per_second"] / real["share"],
        "replicas_cpu_ms_per_turn": real["cpu_ms_per_turn"]["replicas"],
        "median_latency_s_of_the_core": real["latency_s"]["median"] * real["share"],
        "p95_latency_s_of_the_core": real["latency_s"]["p95"] * real["share"],
    }
    return {
        name: {
            "measured": round(found[name], 3),
            "simulated": round(value, 3),
            "simulated_x": round(value / found[name], 3),
        }
        for name, value in simulated.items()
    }


def measure_store(sessions: int = 200, state: int = 6656, versions: int = 4) -> dict[str, Any]:
    """What a version takes of a SQLite store, and the CPU time of reading and of committing one.

    Args:
        sessions: how many.
        state: bytes of a memory.
        versions: of each session.
    """
    adapter = "f" * 64
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sessions.db"
        with SessionStore.open(f"sqlite:///{file}") as store:
            begun = time.process_time()
            for number in range(sessions):
                for version in range(versions - 1):
                    memory, start = os.urandom(state), os.urandom(state) if version == 0 else None
                    parent = version + 1 if version else 0
                    commit = Commit(
                        "tenant", f"s{number}", parent=parent, state=memory, tokens=1, fingerprint=adapter, begin=start
                    )
                    store.commit(commit)
            committed = time.process_time() - begun
            begun = time.process_time()
            for number in range(sessions):
                store.load("tenant", f"s{number}", expect=adapter)
            loaded = time.process_time() - begun
        size = sum(part.stat().st_size for part in Path(folder).iterdir())
    return {
        "state_bytes": state,
        "bytes_per_version": round(size / (sessions * versions)),
        "cpu_ms_per_commit": round(1000 * committed / (sessions * (versions - 1)), 2),
        "cpu_ms_per_load": round(1000 * loaded / sessions, 2),
    }


def fleet(service: Service, rate: float, seconds: float) -> dict[str, Any]:
    """The fewest replicas that a load takes, how they do with fewer and more, and with one that dies."""
    least = max(2, int(rate / service.ceiling))
    curve = []
    for count in sorted({least + extra for extra in range(-1, 3)} | {round(least * x) for x in (1.1, 1.25, 1.5)}):
        if count >= 2:
            curve.append({"replicas": count} | summary(*run(service, count, rate, seconds), seconds))
    enough = [one for one in curve if not one["refused"] and one["p95_s"] <= max(SLOWEST, 2 * unloaded(service))]
    if not enough:
        return {"ceiling_turns_s": round(service.ceiling, 2), "curve": curve}
    count = enough[0]["replicas"]
    outcome, _ = run(service, count + 1, rate, seconds, kill_at=seconds / 3)
    after = (seconds / 3, 2 * seconds / 3)
    return {
        "ceiling_turns_s": round(service.ceiling, 2),
        "alone_s": round(unloaded(service), 2),
        "curve": curve,
        "enough": count,
        "one_more_and_one_dies": {
            "replicas": count + 1,
            "asked_again": outcome.repeated,
            "refused": outcome.refused,
            "p95_s_before": round(outcome.quantile(0.95, 0, seconds / 3), 2),
            "p95_s_after": round(outcome.quantile(0.95, *after), 2),
        },
    }


def unloaded(service: Service) -> float:
    """Seconds of a turn that has a replica for itself."""
    return service.steps * (service.fixed + service.each)


def run(
    service: Service, count: int, rate: float, seconds: float, kill_at: float | None = None
) -> tuple[Outcome, float]:
    """Turns that come at random for some time, and how busy the replicas were."""
    rng, env = random.Random(f"fleet/{count}"), simpy.Environment()
    replicas = [Replica(env, service, simpy.Resource(env)) for _ in range(count)]
    served = Fleet(env, replicas)

    def arrivals() -> Generator[Any, Any, None]:
        while env.now < seconds:
            yield env.timeout(rng.expovariate(rate))
            env.process(served.ask(rng.randrange(10**6)))

    env.process(arrivals())
    if kill_at is not None:
        _at(env, kill_at, replicas[0].die)
    env.run(until=seconds)
    return served.outcome, sum(one.busy for one in replicas) / (count * seconds)


def _at(env: simpy.Environment, when: float, act: Callable[[], None]) -> None:
    def wait() -> Generator[Any, Any, None]:
        yield env.timeout(when)
        act()

    env.process(wait())


def summary(outcome: Outcome, busy: float, seconds: float) -> dict[str, Any]:
    """Of a run, without the fifth in which it fills up, and the last, whose turns may not be over."""
    asked = (seconds / 5, 4 * seconds / 5)
    return {
        "busy": round(busy, 3),
        "median_s": round(outcome.quantile(0.5, *asked), 2),
        "p95_s": round(outcome.quantile(0.95, *asked), 2),
        "p99_s": round(outcome.quantile(0.99, *asked), 2),
        "refused": outcome.refused,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """The latencies by the number of replicas."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, (name, found) in zip(axes, report["fleets"].items(), strict=True):
        counts = [one["replicas"] for one in found["curve"]]
        for quantile, style in (("median_s", "-"), ("p95_s", "--"), ("p99_s", ":")):
            axis.plot(counts, [one[quantile] for one in found["curve"]], style, label=quantile.removesuffix("_s"))
        axis.set(title=name.replace("_", " "), xlabel="replicas", ylabel="seconds of a turn", yscale="log")
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
