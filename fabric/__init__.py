"""A Layer-2 peer-to-peer overlay network: the endpoint."""

__version__ = "0.1.0"
