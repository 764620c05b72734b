"""Names, certificates, trust, intent: who somebody is and what may be believed of it."""
