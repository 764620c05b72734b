"""The kinds of failure, so that each caller can tell whose fault it was.

Hot paths return a verdict and count it; control paths raise one of these.
"""


class FabricError(Exception):
    """Anything this project raises on purpose."""


class DecodeError(FabricError):
    """Bytes that came from anyone are not what they should be."""


class AuthenticationError(FabricError):
    """A tag, signature or proof does not hold."""


class CertificateError(AuthenticationError):
    """A certificate that does not chain, is not in its life, is revoked, or names another."""


class PolicyError(FabricError):
    """Proven, but not allowed."""


class ExhaustedError(FabricError):
    """A bounded thing is used up: nonces, a queue, a quota, addresses."""


class ConfigurationError(FabricError):
    """The operator's configuration is wrong (exit code 78)."""
