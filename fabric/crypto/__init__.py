"""libsodium and `cryptography` under our names, without policy."""
