"""The service that decides: pure and synchronous."""
