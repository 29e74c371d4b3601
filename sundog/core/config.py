"""Every limit and timeout, named, with its unit and its reason. One object per session, sent to every process of it."""

from __future__ import annotations

import msgspec

from sundog.core.resources import CPU, UNIT, Shape
from sundog.core.units import GIB, KIB, MIB, MICROSECOND, MILLISECOND, SECOND, Nanos


class Config(msgspec.Struct, frozen=True, array_like=False):
    """The settings of a session that machines and loops share."""

    # -- the node
    capacity: Shape = ((CPU, 2 * UNIT),)
    #: Workers started with the node; the pool grows when tasks block and shrinks back.
    worker_count: int = 2
    #: A bound on the pool however many tasks block; past it a blocked parent's children wait. Far above any sane nesting,
    #: below the usual process limits.
    worker_processes_max: int = 512
    #: How long a worker beyond ``worker_count`` may idle before it is stopped.
    worker_idle_max: Nanos = 5 * SECOND
    #: Workers being started at one time; more only make each other slow.
    worker_starting_max: int = 4

    # -- the door
    #: Events a step may be given: bounds the latency of everything behind it.
    step_events_max: int = 4096

    # -- dispatch
    #: Work that may lie in one worker's pipeline: enough to hide the round trip to the node.
    pipeline_work_max: Nanos = 1 * MILLISECOND
    #: As much may lie there where much is ready that is awaited together (``get`` of many): fewer and larger batches cost less.
    #: This part of what each worker's share of it is, so that pipelines are shallow again towards its end; and at most this much.
    pipeline_backlog_part: int = 8
    pipeline_work_patient: Nanos = 20 * MILLISECOND
    #: Tasks in one pipeline, however short they are.
    pipeline_depth_max: int = 512
    #: Tasks in the pipeline of a worker whose function is known: one runs, the next is there when it ends.
    pipeline_depth_min: int = 2
    #: Nothing is put behind a function whose bodies take longer than this: to hide a round trip of some 200 us gains nothing there.
    #: The next task is dispatched when the result is there.
    pipeline_long_body: Nanos = 10 * MILLISECOND
    #: A head that runs this much longer than its pipeline's work bound is late: what is behind it goes elsewhere.
    head_late_after: Nanos = 1 * MILLISECOND
    #: A task that is ready to resume gets its CPUs as overdraft after this long (protocols: P2).
    overdraft_after: Nanos = 50 * MILLISECOND
    #: Ready tasks beyond this many are offered to the global scheduler, once other nodes are known.
    backlog_max: int = 64
    #: An infeasible task waits this long for a node that fits before it fails.
    infeasible_grace: Nanos = 1 * SECOND
    #: Nothing has moved for this long while tasks are blocked: look for a deadlock.
    stall_after: Nanos = 100 * MILLISECOND
    #: Submitted and unfinished tasks of one node before ``.remote()`` waits: 1,000,000, or ``submitted_bytes_max`` of arguments
    #: that travel inline, without those that are so small that a million of them do not make as much.
    submitted_unfinished_max: int = 1_000_000
    submitted_bytes_max: int = 1 * GIB

    # -- objects
    #: Values up to this size travel inline and live in the node's memory.
    inline_bytes_max: int = 100 * KIB
    #: The arena. Sparse: pages exist once written.
    arena_bytes: int = 2 * GIB
    #: Extents start at multiples of this (cache line, and what numpy likes).
    extent_alignment: int = 64
    #: Freed extents keep their pages for reuse up to this much; the rest goes back to the system.
    warm_bytes_max: int = 2 * GIB
    #: Values that a client remembers, each and together (with what an entry costs), so that getting them again asks nobody.
    known_value_bytes_max: int = 8 * KIB
    known_bytes_max: int = 4 * MIB
    #: A value up to this size travels with the news that its object is ready: whoever waited for that wants it next.
    news_bytes_max: int = 2 * KIB
    #: How long a put or a result waits for room before it fails.
    store_full_grace: Nanos = 5 * SECOND

    # -- the wire
    #: A packet on a socket; longer frames are sent in pieces.
    packet_bytes_max: int = 64 * KIB
    #: Unacknowledged frames a sender keeps before it stops to wait.
    link_window_max: int = 4096
    #: Frames received before an acknowledgement is sent on its own.
    link_acknowledge_after: int = 32
    #: Bytes queued for one peer before nothing more is read from it.
    outbox_bytes_max: int = 4 * MIB

    # -- people
    #: A get that has waited this long says for what and why.
    stuck_after: Nanos = 10 * SECOND
    #: Worker output shown per second; past it lines are dropped and counted.
    output_bytes_per_second_max: int = 1 * MIB

    # -- the cluster (used by the global scheduler and membership; one node needs none of it)
    heartbeat_every: Nanos = 100 * MILLISECOND
    node_lost_after: Nanos = 3 * SECOND
    #: A ready task that would wait longer than this for its turn is offered to the global scheduler (as is what exceeds
    #: ``backlog_max``): some round trips to the head, so that what is over at once stays.
    offer_after: Nanos = 2 * MILLISECOND
    #: The head tells a node which ends of tasks it has heard, so that the node need not keep them, once there are this many or the
    #: first is this old; an eighth as many where a task goes there anyhow.
    ends_heard_max: int = 64
    ends_heard_after: Nanos = 1 * SECOND
    #: Bytes that a node pulls from others at one time; one object at least.
    fetch_bytes_max: int = 256 * MIB
    #: A fetch that failed is tried again after this long, from another holder if there is one; doubled up to a hundredfold.
    fetch_retry_after: Nanos = 10 * MILLISECOND
    #: A node that has not answered for this long is passed over; doubled with each failure, like the time that copying may take.
    fetch_answer_after: Nanos = 5 * SECOND
    #: Recipes kept per job.
    lineage_bytes_max: int = 256 * MIB
    #: How the global scheduler chooses a node; one of ``placement.POLICIES``.
    placement_policy: str = "bottom_up"
    #: Smoothing of a function's mean duration; 1/4 follows a change within ten calls.
    mean_shift: int = 2

    # -- loops
    #: The worker's outbox is written before a body that is expected to take longer than this.
    flush_before_body: Nanos = 100 * MICROSECOND
    #: or when its oldest message is older than this.
    flush_after: Nanos = 200 * MICROSECOND
    #: Of results that are awaited together: when the oldest is older than this, or the tasks behind take less than this, which
    #: has to hide the round trip to a node that gets no core at once.
    flush_patient_after: Nanos = 16 * MILLISECOND
    flush_patient_ahead: Nanos = 1 * MILLISECOND
