"""The way of a frame: the contract, and the lanes that keep it."""
