"""Who holds the private keys, behind one small contract."""
