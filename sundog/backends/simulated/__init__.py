"""The simulated backend: the same program and the same machines, in virtual time."""
