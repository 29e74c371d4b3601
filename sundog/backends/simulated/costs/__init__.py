"""What things cost in virtual time."""
