"""What goes wrong in a simulated cluster: said in words, on schedule or by chance, and done to it."""
