"""The ways to keep a secret at rest, each in a module of its own."""
