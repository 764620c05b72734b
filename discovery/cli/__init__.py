"""The `discoveryd` command."""
