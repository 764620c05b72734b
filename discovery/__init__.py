"""The service that introduces endpoints to each other, and is trusted with nothing."""
