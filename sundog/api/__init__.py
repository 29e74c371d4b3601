"""What users call. ``sundog`` re-exports it."""
