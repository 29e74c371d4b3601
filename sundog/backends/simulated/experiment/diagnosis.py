"""Why a simulated workload does not come to its end, in words; and what is left of it when it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sundog.backends.simulated.experiment.measures import NEVER
from sundog.core.explanation import explain
from sundog.core.ids import return_ids
from sundog.core.units import seconds

if TYPE_CHECKING:
    from sundog.backends.simulated.experiment.experiment import Experiment

#: At most so many tasks are named.
_NAMED_MAX = 3
_HEAD = 0


def why_stuck(experiment: Experiment) -> str:
    """Return who waits for what, for a run in which nothing happens any more."""
    measures = experiment.measures
    unfinished = measures.unfinished()
    now = experiment.loop.now
    texts = [
        f"nothing is left to happen after {seconds(now - experiment.began):g} s of virtual time, and {len(unfinished)} of "
        f"{len(experiment.plan.tasks)} tasks have not finished"
    ]
    waiting = [index for index in unfinished if measures.submitted_at[index] != NEVER]
    never = len(unfinished) - len(waiting)
    if never:
        texts.append(f"{never} were never submitted")
    known: dict[int, str] = {}
    for node in experiment.nodes:
        if node.dead:
            continue
        host: Any = node.host
        scheduler = host.local_scheduler
        for task_id, record in scheduler.tasks.items():
            index = record.spec.arguments.format
            if index not in known and len(known) < _NAMED_MAX:
                text = explain(scheduler.tasks, scheduler.resources, return_ids(task_id, max(1, record.spec.return_count))[:1], now)
                known[index] = f"{experiment.plan.name_of(index)} on node {node.number}: {text}"
    texts += known.values()
    if not known and waiting:
        names = ", ".join([experiment.plan.name_of(index) for index in waiting[:_NAMED_MAX]])
        texts.append(f"no node knows anything of {names}")
    return "; ".join(texts)


def leftovers(experiment: Experiment) -> str:
    """Return what hosts still have in their tables, in words; empty if nothing."""
    found: list[str] = []
    for node in experiment.nodes:
        if node.dead or node.number not in experiment.cluster.nodes:
            continue
        host: Any = node.host
        tables = {
            "tasks": host.local_scheduler.tasks,
            "objects": host.object_manager.objects,
            "held IDs": sum([held for _, held in host.object_manager.references.held_by_processes()]),
            "bytes of extents": host.object_manager.ledger.used_bytes,
        }
        if node.number == _HEAD:
            scheduler = host.global_scheduler
            tables |= {
                "waiting for a place": scheduler.waiting,
                "assigned": scheduler.assigned,
                "in the directory": host.directory._entries,
                "recipes": host.lineage._recipes,
            }
        for name, table in tables.items():
            count = table if isinstance(table, int) else len(table)
            if count:
                found.append(f"node {node.number}: {count} {name}")
                if len(found) > _NAMED_MAX:
                    return "; ".join(found)
    return "; ".join(found)
