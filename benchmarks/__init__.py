"""What things cost: ``python -m benchmarks.run`` prints the table, ``benchmarks.core`` the machines alone, ``benchmarks.compare`` peers."""
