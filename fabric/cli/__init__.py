"""One file a verb; talks to the control socket of the daemon."""
