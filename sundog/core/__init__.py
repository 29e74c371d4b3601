"""Decides everything, touches nothing. See ARCHITECTURE.md for the reading order."""
