"""A contender: Hugging Face's own Kosmos-2 in PyTorch on the CPU, at the released sizes, with random weights.

    python torch_peer.py f32|bf16

Orders come as JSON lines on stdin, answers leave on descriptor 3 (bench/serve.ts says how).
"""
import json
import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "2"
import torch
import transformers
from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration

transformers.logging.set_verbosity_error()
torch.set_num_threads(2)
torch.manual_seed(0)
dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[sys.argv[1]]
torch.set_default_dtype(dtype)
replies = os.fdopen(3, "w", buffering=1)
PROMPT, IMAGE_ROWS = 72, 64
model = None


def load(tiny=False, **_):
    """Builds the model without initialising it, then fills it with a block of random numbers, again and again. Says which attention it got."""
    global model
    small = dict(layers=2, embed_dim=128, ffn_dim=256, attention_heads=4)
    eyes = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
    config = Kosmos2Config(text_config=small, vision_config=eyes) if tiny else Kosmos2Config()
    with torch.device("meta"):
        model = Kosmos2ForConditionalGeneration(config)
    model.to_empty(device="cpu")
    block = torch.randn(2**22) * 0.02
    for name, weight in model.named_parameters():
        flat = weight.data.view(-1)
        if "norm" in name or "inner_attn_ln" in name:
            flat.fill_(1 if name.endswith("weight") else 0)
            continue
        for at in range(0, flat.numel(), block.numel()):
            part = flat[at : at + block.numel()]
            part.copy_(block[: part.numel()])
    positions = model.text_model.model.embed_positions
    positions.weights = positions.get_embedding(positions.num_positions + 2, positions.embedding_dim, positions.padding_idx)
    embeddings = model.vision_model.model.embeddings
    embeddings.position_ids.copy_(torch.arange(embeddings.position_ids.shape[-1]).expand((1, -1)))
    model.tie_weights()
    model.eval()
    phase("vision")
    return f"{model.text_model.config._attn_implementation} attention"


def ids(length):
    return torch.tensor([[0] + [10 + (i * 7919) % 60000 for i in range(1, length)]])


def inputs():
    place = torch.zeros((1, PROMPT), dtype=torch.bool)
    place[:, 2 : 2 + IMAGE_ROWS] = True
    return dict(input_ids=ids(PROMPT), attention_mask=torch.ones((1, PROMPT), dtype=torch.long), image_embeds_position_mask=place)


def timed(work):
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def see(pixels):
    rows = model.vision_model(pixels)[0]
    rows = torch.nn.functional.normalize(model.vision_model.model.post_layernorm(rows), dim=-1)
    return model.image_to_text_projection(rows)[0]


@torch.inference_mode()
def phase(what, tokens=16, **_):
    name, _, at = what.partition("@")
    size = model.config.vision_config.image_size
    if name == "vision":
        pixels = torch.randn(1, 3, size, size)
        return [timed(lambda: see(pixels))]
    if name == "prefill":
        images = torch.randn(1, IMAGE_ROWS, model.config.text_config.embed_dim)
        return [timed(lambda: model.text_model(**inputs(), image_embeds=images, use_cache=True, logits_to_keep=1))]
    if name == "caption":
        pixels = torch.randn(1, 3, size, size)
        settings = dict(max_new_tokens=int(at), min_new_tokens=int(at), do_sample=False, no_repeat_ngram_size=3)
        return [timed(lambda: model.generate(pixel_values=pixels, **inputs(), **settings))]
    out = model.text_model(input_ids=ids(int(at) - tokens // 2), use_cache=True, logits_to_keep=1)
    past, samples = out.past_key_values, []
    for _ in range(tokens):
        token = out.logits[:, -1].argmax(-1, keepdim=True)

        def step():
            nonlocal out
            out = model.text_model(input_ids=token, past_key_values=past, use_cache=True, logits_to_keep=1)

        samples.append(timed(step))
    return samples


def about(**_):
    capability = torch.backends.cpu.get_cpu_capability()
    return dict(
        version=f"PyTorch {torch.__version__}, transformers {transformers.__version__}, Python {sys.version.split()[0]}",
        settings=f"{sys.argv[1]}, {torch.get_num_threads()} threads, {capability}, inference mode",
    )


for line in sys.stdin:
    order = json.loads(line)
    try:
        reply = dict(ok={"about": about, "load": load, "phase": phase}[order.pop("do")](**order))
    except Exception as error:  # whatever it is, the other end wants to know
        import traceback

        traceback.print_exc()
        reply = dict(error=f"{type(error).__name__}: {error}")
    replies.write(json.dumps(reply) + "\n")
