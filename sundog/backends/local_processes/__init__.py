"""Real worker processes on one machine, round one shared-memory store."""
