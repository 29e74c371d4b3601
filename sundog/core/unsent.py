"""What a worker has to say and its node has not been told: whether it may wait for the end of one more body, and when it goes.

Every packet costs the node a wake-up, and takes a core from the bodies, so

* results of short bodies, one after the other, travel together (``config.flush_before_body``, ``flush_after``);
* results that somebody waits for together (``RunTask.patient``) wait while what lies behind in the pipeline keeps the worker busy
  until the node has heard of them and has sent more (``config.flush_patient_after``, ``flush_patient_ahead``), and while it is
  likely to be about to, having just heard of others.

A part, not a machine: the worker's loop has the facts, the clock and the link, and tells it what happens. Whoever finds the
pipeline empty sends everything; and what a body that takes longer than expected holds up goes at :meth:`Unsent.goes_at`.
"""

from __future__ import annotations

from sundog.core.config import Config
from sundog.core.deadlines import NEVER
from sundog.core.ids import FunctionID
from sundog.core.messages import RunTask
from sundog.core.units import MILLISECOND, Nanos

#: A body that was thought to be short holds up what was there before it until the node has been told nothing for this long.
OVERDUE_AFTER: Nanos = 2 * MILLISECOND


class Unsent:
    """See the module."""

    __slots__ = ("_after", "_before_body", "_mean_shift", "_means", "_patient_after", "_patient_ahead", "_since", "patient")

    def __init__(self, config: Config) -> None:
        self._before_body = config.flush_before_body
        self._after = config.flush_after
        self._patient_after = config.flush_patient_after
        self._patient_ahead = config.flush_patient_ahead
        self._mean_shift = config.mean_shift
        #: How long the bodies of a function take.
        self._means: dict[FunctionID, Nanos] = {}
        #: All that is unsent are ends of tasks that are awaited together. To be unset when something else is said, or all is sent.
        self.patient = False
        #: When the first of them ended.
        self._since: Nanos = 0

    def may_wait(self, function_id: FunctionID, now: Nanos, told_at: Nanos, behind: int) -> bool:
        """Tell whether what is unsent may wait until the end of a body that begins ``now``.

        It is of ``function_id``, ``behind`` more tasks are in the pipeline, and the node was last told something at ``told_at``.
        """
        mean = self._means.get(function_id, NEVER)  # nobody knows how long it takes
        if mean <= self._before_body and now - told_at <= self._after:
            return True
        if not self.patient or now - self._since + mean > self._patient_after:
            return False
        # Enough is behind; or the node has just been told, and is about to send more.
        return behind * mean >= self._patient_ahead or now + mean - told_at <= self._patient_ahead

    def goes_at(self, told_at: Nanos) -> Nanos:
        """Return when what waits is to be sent even if a body still runs; the node was last told something at ``told_at``."""
        return self._since + self._patient_after if self.patient else told_at + OVERDUE_AFTER

    def ended(self, run: RunTask, now: Nanos, took: Nanos, before: int, unsent: int) -> None:
        """A body ended ``now`` and took ``took``; its end is about to be said.

        ``unsent`` facts are there already; ``before`` were when it began.
        """
        if not unsent:
            self.patient, self._since = run.patient, now
        elif self.patient and (unsent != before or not run.patient):
            self.patient = False
        function_id, means = run.spec.function_id, self._means
        mean = means.get(function_id)
        if mean is None:
            means[function_id] = took
            return
        # Down at once, up slowly: what another process's turn on the core added is no work of the function's.
        more = took - mean
        if more < 0:
            means[function_id] = took
        else:
            means[function_id] = mean + ((more if more < mean else mean) >> self._mean_shift) + 1
