"""What things cost: ``benchmarks.run`` prints the table, ``core`` the machines alone, ``compare`` puts peers beside it."""
