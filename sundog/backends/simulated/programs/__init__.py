"""Users' programs in the simulation: drivers and bodies that really run, in virtual time."""
