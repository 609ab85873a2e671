"""Sources and sets on object stores and on the Hub: copied from there, sent there."""
