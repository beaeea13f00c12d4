"""Which of Celery's ways to run tasks a worker may use.

A refresh must outlive every order to stop its worker (docs/decisions/0008-stopping.md). Only a child process
of its own gives it that: in the other pools, the signals that stop a worker, and Celery's time limits, act in
the middle of a refresh or not at all.
"""

from typing import Any

from celery.concurrency.prefork import TaskPool


def refusal_of_options(options: dict[str, Any]) -> str:
    """Why a worker may not start with these options of `celery worker`; empty if it may."""
    pool = options.get("pool_cls") or options.get("pool")
    if pool not in {None, "prefork", TaskPool} and not (
        isinstance(pool, type) and issubclass(pool, TaskPool)
    ):
        name = pool if isinstance(pool, str) else pool.__module__.rpartition(".")[2]
        return (
            f"--pool {name} is refused: only child processes finish what is in flight when a worker stops;"
            " use --pool prefork, with --concurrency 1 for a single process"
        )
    if options.get("autoscale"):
        return (
            "--autoscale is refused: it ends child processes that hold answers; each child has"
            " EVERGRANT_IN_FLIGHT requests open, use a fixed --concurrency"
        )
    return ""
