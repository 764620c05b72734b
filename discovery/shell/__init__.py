"""HTTP, WebSocket, STUN and storage around the pure core."""
