"""Workloads without bodies: task graphs with durations and sizes, drawn, read from files, or measured."""
