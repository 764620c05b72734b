"""The machines: pure and synchronous. Time and randomness come in as arguments."""
