"""The layers of a model from its config.json: one function an architecture.

To add one: its kinds in layers.py where they are new, here a function from config.json to layers, and its
name in ARCHITECTURES with the keys of `FOREIGN` that it describes. Not here: files (shape).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .layers import Half, attention, delta_net, experts, latent, mamba, mamba2, mlp, short_conv

Config = Mapping[str, Any]
Layer = tuple[Half, ...]

UNGATED = (
    "apertus", "arcee", "bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj",
    "mpt", "nemotron", "nemotron_h", "opt", "persimmon", "phi", "starcoder2",
)  # fmt: skip
# Every n-th layer sees all tokens.
WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "gpt_oss": 2}
SANDWICHED = ("gemma2", "gemma3", "gemma3_text")  # norms before and after each half


def first(config: Config, *keys: str) -> Any:
    """The first of these keys that holds something, else None."""
    return next((config[key] for key in keys if config.get(key)), None)


def head_dim(config: Config) -> int:
    """Values of a head; of its query without the rotated part under latent attention."""
    own = config.get("head_dim") if not config.get("kv_lora_rank") else config.get("qk_nope_head_dim")
    return int(own or config["hidden_size"] // config["num_attention_heads"])


def gated(config: Config) -> bool:
    """Whether a gate multiplies the MLP's activation."""
    return bool(config.get("gated", config.get("model_type") not in UNGATED))


# ------------------------------------------------------------------ decoders of attention and MLPs


def decoder(config: Config) -> list[Layer]:
    """Attention over all tokens, windows or ranks; MLPs, experts, or dense layers first and experts after."""
    mixers, mlps = mixers_of(config), mlps_of(config)
    return [(mixer, *after) for mixer, after in zip(mixers, mlps, strict=True)]


def mixers_of(config: Config) -> list[Half]:
    """The attention of each layer."""
    layers, norms = config["num_hidden_layers"], 2 if config.get("model_type") in SANDWICHED else 1
    if rank := config.get("kv_lora_rank"):
        one = latent(
            config["hidden_size"], config["num_attention_heads"], head_dim(config), rank,
            config["qk_rope_head_dim"], config.get("q_lora_rank") or 0, value_dim=config["v_head_dim"],
        )  # fmt: skip
        return [one] * layers
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return [softmax(config, window or 0 if slid else 0, norms=norms) for slid in slides(config)]


def slides(config: Config) -> list[bool]:
    """For each layer whether it has the window: told layer by layer, by a pattern, or all of them."""
    layers = config["num_hidden_layers"]
    if kinds := config.get("layer_types"):
        return [kind == "sliding_attention" for kind in kinds]
    every = config.get("sliding_window_pattern") or WINDOW_PATTERN.get(str(config.get("model_type")))
    return [not every or (layer + 1) % every != 0 for layer in range(layers)]


def softmax(config: Config, window: int = 0, norms: int = 1, **more: Any) -> Half:
    """One layer's softmax attention with the biases and norms of its family."""
    family, width = str(config.get("model_type", "")), head_dim(config)
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    asked = (heads + 2 * kv_heads) * width
    biases = asked if family.startswith("qwen2") or config.get("attention_bias") else 0
    if family == "gpt_oss":
        biases = asked + config["hidden_size"] + heads  # of the output, and a sink a head
    if family.startswith(("qwen3", "gemma3")) or config.get("use_qk_norm"):
        biases += 2 * width
    return attention(
        config["hidden_size"], heads, kv_heads, width, window=window, biases=biases, norms=norms, **more
    )


def mlps_of(config: Config) -> list[Layer]:
    """The MLP or experts of each layer."""
    count = first(config, "num_experts", "num_local_experts", "n_routed_experts") or 0
    norms = 2 if config.get("model_type") in SANDWICHED else 1
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    dense: Layer = ()
    if config.get("intermediate_size"):
        dense = (mlp(hidden, config["intermediate_size"], gated(config), norms=norms),)
    if not count:
        return [dense] * layers
    return [routed(config, count) if sparse else dense for sparse in sparse_layers(config)]


def sparse_layers(config: Config) -> list[bool]:
    """For each layer whether it has experts."""
    first_dense, step = config.get("first_k_dense_replace") or 0, config.get("decoder_sparse_step") or 1
    only = config.get("mlp_only_layers") or ()
    return [
        layer >= first_dense and (layer + 1 - first_dense) % step == 0 and layer not in only
        for layer in range(config["num_hidden_layers"])
    ]


def routed(config: Config, count: int) -> Layer:
    """One layer's experts."""
    width = first(config, "moe_intermediate_size", "intermediate_size")
    shared = config.get("shared_expert_intermediate_size") or (config.get("n_shared_experts") or 0) * width
    oss, hidden = config.get("model_type") == "gpt_oss", config["hidden_size"]
    return experts(
        hidden, width, count, first(config, "num_experts_per_tok", "num_experts_per_token") or 0,
        gated(config), shared=shared, biases=3 * width * oss,
        router=count * oss + (hidden if config.get("shared_expert_intermediate_size") else 0),
    )  # fmt: skip


# ------------------------------------------------------------------ others, by the names of transformers


def llama4(config: Config) -> list[Layer]:
    """Experts in every n-th layer; three of four layers attend within chunks."""
    layers, hidden = range(config["num_hidden_layers"]), config["hidden_size"]
    step = config.get("interleave_moe_layer_step") or 1
    sparse = config.get("moe_layers") or [layer for layer in layers if (layer + 1) % step == 0]
    chunk, rotated = config.get("attention_chunk_size") or 0, config.get("no_rope_layers")
    width, count = config["intermediate_size"], config["num_local_experts"]
    moe = experts(hidden, width, count, config["num_experts_per_tok"], shared=width)
    dense = (mlp(hidden, config["intermediate_size_mlp"]),)
    within = [bool(rotated[layer]) if rotated else (layer + 1) % 4 != 0 for layer in layers]
    return [
        (softmax(config, chunk if within[layer] else 0, chunked=True), *(moe if layer in sparse else dense))
        for layer in layers
    ]


def jamba(config: Config) -> list[Layer]:
    """Attention in one of eight layers, Mamba in the others; experts in every other (arXiv 2403.19887)."""
    hidden, width = config["hidden_size"], config["intermediate_size"]
    inner, rank = config.get("mamba_expand", 2) * hidden, config.get("mamba_dt_rank", -(-hidden // 16))
    state = config.get("mamba_d_state", 16)
    scan = mamba(
        hidden, inner, state, rank, config.get("mamba_d_conv", 4), norms=1 + (rank + 2 * state) / hidden
    )
    count = config.get("num_experts") or 1
    moe = experts(hidden, width, count, config.get("num_experts_per_tok") or 1)
    period, offset = config.get("attn_layer_period", 8), config.get("attn_layer_offset", 4)
    every, start = config.get("expert_layer_period", 2), config.get("expert_layer_offset", 1)
    return [
        (
            softmax(config) if layer % period == offset else scan,
            *(moe if layer % every == start and count > 1 else (mlp(hidden, width),)),
        )
        for layer in range(config["num_hidden_layers"])
    ]


def scanned(config: Config, inner: int = 0, norm: bool = True) -> Half:
    """A Mamba-2 mixer under the keys of Bamba, Granite 4 and Falcon-H1."""
    hidden, heads = config["hidden_size"], config["mamba_n_heads"]
    inner = inner or config.get("mamba_expand", 2) * hidden
    return mamba2(
        hidden, heads, inner // heads, config["mamba_d_state"], config.get("mamba_n_groups", 1),
        config.get("mamba_d_conv", 4), chunk=config.get("mamba_chunk_size", 256),
        biased=config.get("mamba_conv_bias", True), norms=1 if norm else 1 - inner / hidden,
    )  # fmt: skip


def bamba(config: Config) -> list[Layer]:
    """Mamba-2 but for the layers that are told to attend."""
    scan, attend = scanned(config), config.get("attn_layer_indices") or ()
    after = mlp(config["hidden_size"], config["intermediate_size"])
    layers = range(config["num_hidden_layers"])
    return [(softmax(config) if layer in attend else scan, after) for layer in layers]


def granite_hybrid(config: Config) -> list[Layer]:
    """Granite 4: Mamba-2 or attention as told, experts with a shared MLP, or the shared one alone."""
    hidden, count, shared = (
        config["hidden_size"],
        config.get("num_local_experts") or 0,
        config["shared_intermediate_size"],
    )
    width, chosen = config["intermediate_size"], config.get("num_experts_per_tok") or 0
    after = experts(hidden, width, count, chosen, shared=shared) if count else (mlp(hidden, shared),)
    kinds = first(config, "layer_types", "layers_block_type")
    scan = scanned(config)
    return [(softmax(config) if "attention" in kind else scan, *after) for kind in plain(kinds)]


def plain(kinds: list[str]) -> list[str]:
    """Kinds of layers in one spelling: transformers calls every recurrence linear attention."""
    return ["mamba" if kind in ("linear_attention", "mamba", "hybrid") else kind for kind in kinds]


def falcon_h1(config: Config) -> list[Layer]:
    """Attention and Mamba-2 beside each other in every layer (arXiv 2507.22448)."""
    inner = config.get("mamba_d_ssm") or 0
    scan = scanned(config, inner, norm=bool(config.get("mamba_rms_norm", False)))
    layer = softmax(config, norms=0), scan, mlp(config["hidden_size"], config["intermediate_size"])
    return [layer] * config["num_hidden_layers"]


# transformers' names of Nemotron-H's halves.
LETTERS = {
    "linear_attention": "M",
    "mamba": "M",
    "full_attention": "*",
    "attention": "*",
    "mlp": "-",
    "moe": "E",
}


def nemotron_h(config: Config) -> list[Layer]:
    """Halves by a pattern of M (Mamba-2), * (attention), - (MLP), E (experts): a layer is a mixer and what
    follows it (arXiv 2504.03624)."""
    hidden = config["hidden_size"]
    count, chosen = config.get("n_routed_experts") or 0, config.get("num_experts_per_tok") or 0
    shared = config.get("moe_shared_expert_intermediate_size") or 0
    scan = mamba2(
        hidden, config["mamba_num_heads"], config["mamba_head_dim"], config["ssm_state_size"],
        config["n_groups"], config.get("conv_kernel", 4), chunk=config.get("chunk_size", 128),
        biased=config.get("use_conv_bias", True),
    )  # fmt: skip
    of_kind: dict[str, Callable[[], Layer]] = {
        "M": lambda: (scan,),
        "*": lambda: (softmax(config),),
        "-": lambda: (mlp(hidden, config["intermediate_size"], False),),
        "E": lambda: experts(
            hidden, config["moe_intermediate_size"], count, chosen, False, shared=shared, router=count
        ),
    }
    pattern = config.get("hybrid_override_pattern") or [LETTERS[k] for k in config["layers_block_type"]]
    halves = [of_kind[kind]() for kind in pattern]
    layers: list[Layer] = []
    for half in halves:
        if half[0].mlp and layers:
            layers[-1] += half
        else:
            layers.append(half)
    return layers


def qwen3_next(config: Config) -> list[Layer]:
    """Gated delta nets, gated attention in every fourth layer; experts with a gated shared one."""
    delta = delta_net(
        config["hidden_size"], config["linear_num_key_heads"], config["linear_key_head_dim"],
        config["linear_num_value_heads"], config["linear_value_head_dim"],
        config.get("linear_conv_kernel_dim", 4),
    )  # fmt: skip
    every = config.get("full_attention_interval") or 4
    kinds = config.get("layer_types") or [
        "linear_attention" if (layer + 1) % every else "full_attention"
        for layer in range(config["num_hidden_layers"])
    ]
    full = softmax(config, gated=True)
    mixers = [delta if kind == "linear_attention" else full for kind in kinds]
    return [(mixer, *after) for mixer, after in zip(mixers, mlps_of(config), strict=True)]


def lfm2(config: Config) -> list[Layer]:
    """Gated short convolutions and attention as told."""
    width = config["intermediate_size"]
    if config.get("block_auto_adjust_ff_dim", True):
        block = config.get("block_multiple_of", 256)
        scaled = int(config.get("block_ffn_dim_multiplier") or 1.0) * (2 * width // 3)
        width = -(-scaled // block) * block
    conv = short_conv(config["hidden_size"], config["conv_L_cache"])
    after, full = mlp(config["hidden_size"], width), softmax({**config, "use_qk_norm": True})
    attend = config.get("full_attn_idxs") or ()
    kinds = config.get("layer_types") or [
        "full_attention" if layer in attend else "conv" for layer in range(config["num_hidden_layers"])
    ]
    return [(full if kind == "full_attention" else conv, after) for kind in kinds]


# ------------------------------------------------------------------ towers beside the decoder


def _block(config: Config, hidden: int, ffn: int, gate: bool, biased: bool, norms: int) -> int:
    products = hidden * (4 * hidden + (3 if gate else 2) * ffn)
    biases = 4 * hidden + (2 if gate else 1) * ffn + hidden
    return products + biased * biases + norms * hidden


def qwen_tower(config: Config) -> int:
    """Qwen2-VL and Qwen2.5-VL: blocks, patches of two frames, a merger of 2 x 2 patches."""
    tower = config["vision_config"]
    new = config["model_type"] == "qwen2_5_vl"
    hidden = tower["hidden_size"] if new else tower["embed_dim"]
    ffn = tower["intermediate_size"] if new else int(tower.get("mlp_ratio", 4) * hidden)
    out = tower.get("out_hidden_size", 0) if new else tower["hidden_size"]
    out = out or config["hidden_size"]
    patch = 3 * tower.get("temporal_patch_size", 2) * tower.get("patch_size", 14) ** 2
    merged = tower.get("spatial_merge_size", 2) ** 2 * hidden
    merger = merged * (merged + 1) + out * (merged + 1) + hidden * (1 if new else 2)
    blocks = _block(config, hidden, ffn, new, True, 2 if new else 4)
    return int(tower["depth"] * blocks + patch * hidden + merger)


def siglip_tower(config: Config) -> int:
    """Gemma 3: SigLIP, and a projection with a norm."""
    tower = config["vision_config"]
    hidden, patch = tower.get("hidden_size", 768), tower.get("patch_size", 16)
    positions = (tower.get("image_size", 224) // patch) ** 2
    block = _block(config, hidden, tower.get("intermediate_size", 3072), False, True, 4)
    ends = (3 * patch**2 + 1 + positions + 2) * hidden
    projector = hidden * config["hidden_size"] + hidden
    return int(tower.get("num_hidden_layers", 12) * block + ends + projector)


def llama4_tower(config: Config) -> int:
    """Llama 4: a ViT, an adapter after 2 x 2 patches are shuffled together, a projector."""
    tower = config["vision_config"]
    hidden, ffn = tower["hidden_size"], tower["intermediate_size"]
    patch = tower.get("patch_size", 14)
    positions = (tower.get("image_size", 448) // patch) ** 2 + 1
    block = _block(config, hidden, ffn, False, True, 4)
    ends = (3 * patch**2 + 1 + positions + 4) * hidden
    adapter = ffn * tower["projector_input_dim"] + tower["projector_output_dim"] ** 2
    projector = tower.get("vision_output_dim", tower["projector_output_dim"]) * config["hidden_size"]
    return int(tower["num_hidden_layers"] * block + ends + adapter + projector)


TOWERS: dict[str, Callable[[Config], int]] = {
    "qwen2_vl": qwen_tower,
    "qwen2_5_vl": qwen_tower,
    "gemma3": siglip_tower,
    "llama4": llama4_tower,
}
# What a config.json leaves to its family (transformers' defaults).
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "sliding_window": 4096, "tie_word_embeddings": True, "max_position_embeddings": 131_072,
    },
}  # fmt: skip


# ------------------------------------------------------------------ which there are


@dataclass(frozen=True, slots=True)
class Architecture:
    """How a model's layers are read, and which keys of FOREIGN they describe."""

    layers: Callable[[Config], list[Layer]] = decoder
    describes: frozenset[str] = frozenset()


# A key of config.json -> what stands in a model that has it, which its architecture must describe.
FOREIGN = {
    "vision_config": "a vision tower",
    "visual": "a vision tower",
    "audio_config": "an audio tower",
    "is_encoder_decoder": "an encoder beside its decoder",
    "mamba_d_state": "state-space (Mamba) layers",
    "ssm_state_size": "state-space (Mamba) layers",
    "ssm_cfg": "state-space (Mamba) layers",
    "state_size": "state-space (Mamba) layers",
    "hybrid_override_pattern": "state-space (Mamba) layers",
    "linear_num_key_heads": "layers of linear attention",
    "full_attention_interval": "layers of linear attention",
    "linear_attn_config": "layers of linear attention",
    "attn_type_list": "layers of linear attention",
    "conv_L_cache": "layers of short convolutions",
    "attention_chunk_size": "attention within chunks",
    "index_topk": "sparse attention by an index",
}
DECODERS = (
    "apertus", "arcee", "baichuan", "bloom", "chatglm", "codegen", "cohere", "cohere2", "deepseek",
    "deepseek_v2", "deepseek_v3", "ernie4_5", "exaone", "exaone4", "falcon", "gemma",
    "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gpt_oss", "gptj", "granite", "granitemoe", "hunyuan_v1_dense", "internlm",
    "internlm2", "internlm3", "kimi_k2", "llama", "minicpm", "minicpm3", "ministral", "mistral", "mixtral",
    "mpt", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "orion", "persimmon", "phi", "phi3",
    "phimoe", "qwen", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm",
    "starcoder2", "xverse",
)  # fmt: skip
_MAMBA = frozenset({"mamba_d_state"})
ARCHITECTURES: dict[str, Architecture] = {
    **dict.fromkeys(DECODERS, Architecture()),
    "gemma3": Architecture(describes=frozenset({"vision_config"})),
    "qwen2_vl": Architecture(describes=frozenset({"vision_config"})),
    "qwen2_5_vl": Architecture(describes=frozenset({"vision_config"})),
    "llama4": Architecture(llama4, frozenset({"vision_config", "attention_chunk_size"})),
    "llama4_text": Architecture(llama4, frozenset({"attention_chunk_size"})),
    "jamba": Architecture(jamba, _MAMBA),
    "bamba": Architecture(bamba, _MAMBA),
    "granitemoehybrid": Architecture(granite_hybrid, _MAMBA),
    "falcon_h1": Architecture(falcon_h1, _MAMBA),
    "nemotron_h": Architecture(nemotron_h, frozenset({"ssm_state_size", "hybrid_override_pattern"})),
    "qwen3_next": Architecture(qwen3_next, frozenset({"linear_num_key_heads", "full_attention_interval"})),
    "lfm2": Architecture(lfm2, frozenset({"conv_L_cache"})),
}


def normalised(config: Config) -> bool:
    """Whether the weights of a token's experts are made to sum to 1, by the experts that it picked alone."""
    return bool(config.get("norm_topk_prob"))


# Families whose routers are known, and by config.json whether an expert that a token does not pick leaves no
# trace in what the token gets: of one that is not normalised each expert has a part in all others' weights.
ROUTERS: dict[str, Callable[[Config], bool]] = {
    "deepseek_v3": lambda config: True,  # a sigmoid for each expert
    "mixtral": lambda config: True,
    **dict.fromkeys(("olmoe", "qwen2_moe", "qwen3_moe"), normalised),
}
KINDS = {  # of `layer_types`, for decoders that name no others
    "full_attention", "sliding_attention", "chunked_attention", "attention", "mamba", "linear_attention",
    "conv",
}  # fmt: skip


def undescribed(config: Config) -> str | None:
    """What a model has that no layer here describes, "" where its architecture is not known at all; None
    where all of it is known."""
    name = str(config.get("model_type") or (config.get("architectures") or ["llama"])[0])
    known = ARCHITECTURES.get(name, None if config.get("model_type") else Architecture())
    inside = [config, config.get("text_config") or {}]
    described = known.describes if known else frozenset()
    words = [
        word
        for key, word in FOREIGN.items()
        if key not in described and any(part.get(key) for part in inside)
    ]
    kinds = {kind for part in inside for kind in part.get("layer_types") or ()}
    usual = {"full_attention", "sliding_attention"} if not known or known.layers is decoder else KINDS
    words += [f"layers of the kind {kind!r}" for kind in sorted(kinds - usual)]
    return words[0] if words else None if known else ""


def decoder_config(config: Config) -> dict[str, Any]:
    """The keys of the decoder alone: those of `text_config` where a tower stands beside it."""
    name = str(config.get("model_type", ""))
    inner = {k: v for k, v in (config.get("text_config") or {}).items() if v is not None}
    return {**DEFAULTS.get(name, {}), **config, **inner, "model_type": name or "unknown"}


def layers_of(config: Config) -> list[Layer]:
    """The layers of a decoder's config (`decoder_config`), one by one."""
    return ARCHITECTURES.get(str(config.get("model_type")), Architecture()).layers(config)


def tower_params(config: Config) -> int:
    """Weights of what stands beside the decoder (`decoder_config`), 0 where nothing does."""
    tower = TOWERS.get(str(config.get("model_type")))
    return tower(config) if tower and config.get("vision_config") else 0
