"""Several abilities in one training: probes of each, a mix that follows them, ways to lift one."""
