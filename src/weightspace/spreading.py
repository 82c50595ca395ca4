"""Run independent tasks: here, in processes of this machine, or on a Ray cluster."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from weightspace.errors import InputError, require_between
from weightspace.interrupting import noted_interrupt

ATTEMPTS = 3
PENDING_PER_CPU = 2
ANSWER_SECONDS, WATCH_SECONDS = 10.0, 0.5


@runtime_checkable
class Task(Protocol):
    """Something to do, `units` of progress long."""

    @property
    def units(self) -> int:
        """How far the progress bar moves."""
        ...


Tick = Callable[[int], None]
Work = Callable[[Any, Any, Tick], Any]


class Where(NamedTuple):
    """Where tasks run: `workers` processes of one thread each (1: in this process), or a Ray cluster.

    `ray` is None, a cluster's address, or `local`, which starts a cluster of `workers` CPUs on this machine.
    """

    workers: int = 1
    ray: str | None = None


def count_cpus() -> int:
    """How many CPUs this process may use."""
    import joblib

    return int(joblib.cpu_count())


def spread(work: Work, shared: Any, tasks: Sequence[Task], where: Where, tick: Tick) -> Iterator[tuple[int, Any]]:
    """Yield `(number of the task, work(shared, task, tick))` as tasks end, in any order.

    Only results that have not been taken yet are held: a few for each worker.

    Args:
        work: an importable function; away from this process, its `tick` does nothing.
        shared: what all tasks need; large numpy arrays in it are shared by the processes of a machine.
        tasks: independent of each other. On a cluster, a task whose worker dies is tried again.
        where: see `Where`.
        tick: called with the units of progress made.

    Raises:
        InputError: Ray is not installed, does not answer, or a task's workers died again and again.
    """
    require_between("workers", where.workers, 1)
    if where.ray is not None:
        yield from _spread_on_ray(work, shared, tasks, where, tick)
    elif where.workers > 1 and len(tasks) > 1:
        yield from _spread_on_processes(work, shared, tasks, where.workers, tick)
    else:
        for number, task in enumerate(tasks):
            yield number, work(shared, task, tick)


def _spread_on_processes(
    work: Work, shared: Any, tasks: Sequence[Task], workers: int, tick: Tick
) -> Iterator[tuple[int, Any]]:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    # Copy-on-write, since torch takes no read-only arrays without a warning.
    parallel = Parallel(
        n_jobs=workers,
        return_as="generator_unordered",
        mmap_mode="c",
        batch_size=1,
        initializer=_live_with,
        initargs=(os.getpid(),),
    )
    calls = (delayed(_call)(work, shared, number, task) for number, task in enumerate(tasks))
    results = parallel(calls)
    try:
        with noted_interrupt() as pressed:
            for number, result in results:
                tick(tasks[number].units)
                yield number, result
                if pressed():
                    raise pressed.reason()
    except TerminatedWorkerError as error:
        raise InputError(
            "expected worker processes that live, found that one was killed, perhaps for want of memory; finished work "
            "is kept: --resume continues it, and --workers 1 takes less memory"
        ) from error
    finally:
        with contextlib.suppress(RuntimeError), warnings.catch_warnings():
            # Whoever stops early means to: joblib would say how many tasks it cancelled.
            warnings.filterwarnings("ignore", message=".*have been cancelled", category=UserWarning)
            results.close()


def _live_with(parent: int) -> None:
    """What a worker does first: Ctrl-C is its parent's, SIGTERM ends it, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _call(work: Work, shared: Any, number: int, task: Task) -> tuple[int, Any]:
    """One task in another process: with one thread, as the other cores have workers of their own."""
    import torch

    torch.set_num_threads(1)
    return number, work(shared, task, lambda units: None)


def _spread_on_ray(
    work: Work, shared: Any, tasks: Sequence[Task], where: Where, tick: Tick
) -> Iterator[tuple[int, Any]]:
    ray = _connect(where)
    try:
        call = ray.remote(max_retries=ATTEMPTS)(_call)
        common, function = ray.put(shared), ray.put(work)
        waiting = iter(range(len(tasks)))
        limit = PENDING_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: list[Any] = []
        while True:
            for number in waiting:
                running.append(call.remote(function, common, number, tasks[number]))
                if len(running) >= limit:
                    break
            if not running:
                return
            ended, running = ray.wait(running)
            number, result = _result_of(ray, ended[0])
            tick(tasks[number].units)
            yield number, result
    finally:
        ray.shutdown()


def _connect(where: Where) -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "expected Ray for --ray, found none installed: pip install 'weightspace[ray]', or leave --ray away"
        ) from error
    start: dict[str, Any] = {"address": where.ray}
    _require_answer(str(where.ray))
    if where.ray == "local":
        start = {"include_dashboard": False, "num_cpus": where.workers}
    try:
        ray.init(**start, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"expected a Ray cluster at '{where.ray}', found none that answers ({reason})") from error
    return ray


def _require_answer(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"expected a Ray cluster at '{address}', found none that answers ({error})") from error


def _result_of(ray: Any, reference: Any) -> tuple[int, Any]:
    try:
        return ray.get(reference)
    except ray.exceptions.WorkerCrashedError as error:
        raise InputError(
            f"expected workers that live, found that those of one task died {ATTEMPTS + 1} times; finished work is "
            "kept: --resume continues it"
        ) from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from error
