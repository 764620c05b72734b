"""Bytes to frozen values and back; nothing here decides anything."""
