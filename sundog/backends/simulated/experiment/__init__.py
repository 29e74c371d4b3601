"""Scheduler research: a workload without bodies, run by the machines of core, and what came of it."""
