"""New grammars are tried in a process of its own, before an engine meets them."""
