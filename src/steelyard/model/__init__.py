"""Networks, weights in and out, the tokenizer and THE chat template.

Importing this door loads nothing: each name is fetched from its file when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..doors import fetching

if TYPE_CHECKING:
    from .adapters import (
        Adapter,
        adapters_base,
        check_base,
        peft_config,
        read_adapter,
        read_factors,
        write_peft,
    )
    from .chat import in_words
    from .companions import copy_companions
    from .decoder import family_of, read_decoder
    from .encoder import Encoder, encoder_folder, exported_encoder, is_encoder, read_encoder
    from .encoder_export import export_encoder
    from .families import FAMILIES, Decoder
    from .fp8 import Fp8
    from .gguf import to_hf
    from .gguf_writer import Encoding, check_gguf, tensor_count, write_gguf
    from .grids import GRID, read_grid, write_grid
    from .integers import ByRow, Grouped, Rounding, group_of, widened
    from .kernels import Chance, Dropout, rope
    from .llamacpp_file import LLAMACPP_VARIABLE, llamacpp_library
    from .modelfile import modelfile_of
    from .network import load, save
    from .openvino_ir import export_openvino
    from .openvino_tokenizer import DETOKENIZER, write_detokenizer
    from .quantised import checkpoint_weights, quantised_form
    from .quantised_check import quantised_as
    from .random_model import write_random_model
    from .sentence_tokenizer import SentenceTokenizer
    from .served import ServedTensors, served_weights
    from .source import ModelSource, Use, check_folder, forms_of, licence, models_folder, resolve
    from .streamed import LayersFromDisk, Tensors, layers_from_disk, network_of
    from .teaching import (
        Example,
        Unteachable,
        compared_examples,
        taught_examples,
        taught_turns,
        text_example,
    )
    from .tokenizer import BYTE_OF, Stream, Tokenizer, chat_ids
    from .transformers_backend.environment import (
        TRL_QUIET,
        TRL_VARIABLE,
        check_ray,
        transformers_families,
        trl_devices,
        trl_environment,
        trl_missing,
        trl_package,
        trl_python,
        trl_versions,
    )
    from .transformers_backend.folder import write_transformers_folder
    from .transformers_backend.network import TransformersNetwork
    from .weights import Weights, bf16_of, f32_of, write, write_each

FILES = {
    **dict.fromkeys(("Adapter", "adapters_base", "check_base", "peft_config", "read_adapter"), "adapters"),
    **dict.fromkeys(("read_factors", "write_peft"), "adapters"),
    "Decoder": "families",
    "FAMILIES": "families",
    "ModelSource": "source",
    "Use": "source",
    "check_folder": "source",
    "forms_of": "source",
    "licence": "source",
    "quantised_as": "quantised_check",
    "resolve": "source",
    "served_weights": "served",
    "checkpoint_weights": "quantised",
    "quantised_form": "quantised",
    "ServedTensors": "served",
    "LayersFromDisk": "streamed",
    "Tensors": "streamed",
    "layers_from_disk": "streamed",
    "network_of": "streamed",
    "to_hf": "gguf",
    **dict.fromkeys(("Encoding", "check_gguf", "tensor_count", "write_gguf"), "gguf_writer"),
    "BYTE_OF": "tokenizer",
    "Stream": "tokenizer",
    "Tokenizer": "tokenizer",
    "Example": "teaching",
    "Unteachable": "teaching",
    "in_words": "chat",
    "compared_examples": "teaching",
    "taught_examples": "teaching",
    "taught_turns": "teaching",
    "text_example": "teaching",
    "chat_ids": "tokenizer",
    "copy_companions": "companions",
    "Weights": "weights",
    "bf16_of": "weights",
    "f32_of": "weights",
    "write": "weights",
    "write_each": "weights",
    "Dropout": "kernels",
    "Fp8": "fp8",
    "Chance": "kernels",
    "LLAMACPP_VARIABLE": "llamacpp_file",
    "llamacpp_library": "llamacpp_file",
    "modelfile_of": "modelfile",
    "rope": "kernels",
    "load": "network",
    "save": "network",
    "export_openvino": "openvino_ir",
    "DETOKENIZER": "openvino_tokenizer",
    "write_detokenizer": "openvino_tokenizer",
    "write_random_model": "random_model",
    "GRID": "grids",
    "read_grid": "grids",
    "write_grid": "grids",
    "ByRow": "integers",
    "Grouped": "integers",
    "Rounding": "integers",
    "group_of": "integers",
    "widened": "integers",
    "Encoder": "encoder",
    "SentenceTokenizer": "sentence_tokenizer",
    "encoder_folder": "encoder",
    "export_encoder": "encoder_export",
    "exported_encoder": "encoder",
    "is_encoder": "encoder",
    "read_encoder": "encoder",
    "models_folder": "source",
    "family_of": "decoder",
    "read_decoder": "decoder",
    "TRL_VARIABLE": "transformers_backend.environment",
    "transformers_families": "transformers_backend.environment",
    "check_ray": "transformers_backend.environment",
    "trl_devices": "transformers_backend.environment",
    "trl_environment": "transformers_backend.environment",
    "trl_missing": "transformers_backend.environment",
    "trl_package": "transformers_backend.environment",
    "TRL_QUIET": "transformers_backend.environment",
    "trl_python": "transformers_backend.environment",
    "trl_versions": "transformers_backend.environment",
    "write_transformers_folder": "transformers_backend.folder",
    "TransformersNetwork": "transformers_backend.network",
}

__all__ = [
    "BYTE_OF",
    "DETOKENIZER",
    "FAMILIES",
    "GRID",
    "LLAMACPP_VARIABLE",
    "TRL_QUIET",
    "TRL_VARIABLE",
    "Adapter",
    "ByRow",
    "Chance",
    "Decoder",
    "Dropout",
    "Encoder",
    "Encoding",
    "Example",
    "Fp8",
    "Grouped",
    "LayersFromDisk",
    "ModelSource",
    "Rounding",
    "SentenceTokenizer",
    "ServedTensors",
    "Stream",
    "Tensors",
    "Tokenizer",
    "TransformersNetwork",
    "Unteachable",
    "Use",
    "Weights",
    "adapters_base",
    "bf16_of",
    "chat_ids",
    "check_base",
    "check_folder",
    "check_gguf",
    "check_ray",
    "checkpoint_weights",
    "compared_examples",
    "copy_companions",
    "encoder_folder",
    "export_encoder",
    "export_openvino",
    "exported_encoder",
    "f32_of",
    "family_of",
    "forms_of",
    "group_of",
    "in_words",
    "is_encoder",
    "layers_from_disk",
    "licence",
    "llamacpp_library",
    "load",
    "modelfile_of",
    "models_folder",
    "network_of",
    "peft_config",
    "quantised_as",
    "quantised_form",
    "read_adapter",
    "read_decoder",
    "read_encoder",
    "read_factors",
    "read_grid",
    "resolve",
    "rope",
    "save",
    "served_weights",
    "taught_examples",
    "taught_turns",
    "tensor_count",
    "text_example",
    "to_hf",
    "transformers_families",
    "trl_devices",
    "trl_environment",
    "trl_missing",
    "trl_package",
    "trl_python",
    "trl_versions",
    "widened",
    "write",
    "write_detokenizer",
    "write_each",
    "write_gguf",
    "write_grid",
    "write_peft",
    "write_random_model",
    "write_transformers_folder",
]

__getattr__ = fetching(__name__, FILES)
