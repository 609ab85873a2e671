"""Key files that open with a passphrase or a PKCS#11 token."""

from .locked import is_locked, lock, lock_by_token, unlock

__all__ = ["is_locked", "lock", "lock_by_token", "unlock"]
