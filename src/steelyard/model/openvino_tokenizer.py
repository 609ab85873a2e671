"""What OpenVINO GenAI needs of a tokenizer to follow grammars: the bytes of each token.

GenAI reads them from an `openvino_detokenizer.xml`. Nothing is ever decoded with it: the server's own
tokenizer does that. Not here: encoding, templates (tokenizer.py).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..shape import read_json
from .tokenizer import Tokenizer

DETOKENIZER = "openvino_detokenizer.xml"


def vocabulary(tokenizer: Tokenizer, rows: int) -> list[bytes]:
    """Bytes by id, at least one for each of the `rows` of the logits.

    Special tokens are empty, which no grammar ever takes: else `<|im_end|>` could stand inside a string.
    """
    rows = max(rows, tokenizer.vocab_size)
    return [b"" if n in tokenizer.special_ids else tokenizer.token_bytes(n) for n in range(rows)]


def write_detokenizer(folder: Path, out: Path) -> bool:
    """Write `openvino_detokenizer.xml` and `.bin` of the tokenizer in `folder` into `out`.

    0.3 s and 50 MB at a vocabulary of 49k. False, with nothing written, where openvino_tokenizers or
    tokenizer.json is missing: such a folder answers without grammars.
    """
    if find_spec("openvino_tokenizers") is None or not (folder / "tokenizer.json").exists():
        return False
    import openvino as ov
    from openvino_tokenizers.tokenizer_pipeline import FuseStep, TokenizerPipeline, VocabDecoderStep

    tokenizer = Tokenizer(folder)
    rows = read_json(folder / "config.json").get("vocab_size") or 0
    # Without tokens to skip the CPU plugin cannot compile the graph.
    skip = sorted(tokenizer.special_ids) or [0]
    pipeline = TokenizerPipeline()
    pipeline.add_steps([VocabDecoderStep(vocabulary(tokenizer, rows), skip, True), FuseStep()])
    model = pipeline.get_detokenizer_ov_subgraph()
    model.get_parameters()[0].set_element_type(ov.Type.i64)
    model.validate_nodes_and_infer_types()
    _name(model)
    ov.save_model(model, str(out / DETOKENIZER), compress_to_fp16=False)
    return True


def _name(model: Any) -> None:
    """Names by place, not by a counter of the process: equal input gives equal bytes.

    GenAI finds the vocabulary at the node whose name contains its type, VocabDecoder.
    """
    for place, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{place}")
    model.input().get_tensor().set_names({"ids"})
    model.output().get_tensor().set_names({"string_output"})
