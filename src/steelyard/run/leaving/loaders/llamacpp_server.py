"""llama.cpp's own server over one GGUF file, out of the package xllamacpp: its tokenizer, its templates.

`python -m steelyard.run.leaving.loaders.llamacpp_server FILE CONTEXT SEQUENCES THREADS` prints {"url"} once
it has loaded, and ends when standard input does.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    file, context, sequences, threads = sys.argv[1], *map(int, sys.argv[2:5])
    answer = os.dup(1)
    os.dup2(2, 1)  # what the library prints belongs to the log
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel = context * sequences, sequences
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.use_jinja, params.verbosity = True, 0
    params.cache_ram_mib = 0
    server = xllamacpp.Server(params)
    os.write(answer, json.dumps({"url": server.listening_address}).encode() + b"\n")
    os.close(answer)
    sys.stdin.read()
    os._exit(0)  # its threads have nothing left to do, and would be waited for


if __name__ == "__main__":
    main()
