"""How cost grows with size; ``__main__`` runs it."""
