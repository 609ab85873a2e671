"""The sealed file: ciphers → sealed → rewrap."""
