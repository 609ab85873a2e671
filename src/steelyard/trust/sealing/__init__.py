"""The sealed file: ciphers → header → sealer (who sealed), rewrap → sealed."""
