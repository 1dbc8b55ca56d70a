#!/usr/bin/env python3
"""Makes the reference values that `npm run test:real` compares with: what Hugging Face computes of a synthetic checkpoint.

    kosmos2 synthesize --dtype bf16 --seed 1 --out BF16                                # 3.3 GB; any --shards
    python test/real/make_reference.py BF16 test/real/released.safetensors             # 12 GB of memory, two minutes
    kosmos2 synthesize --config kosmos2-emoji --dtype bf16 --seed 1 --out SMALL
    python test/real/make_reference.py SMALL test/real/small.safetensors

The reference is Hugging Face transformers on the CPU in fp32 with eager attention (its sdpa masks the resampler, which is a defect).
Made with Python 3.11, torch 2.13.0 (CPU), transformers 5.18.0, safetensors 0.8.0, NumPy 2.4.6.

One text of 576 tokens (512 at the small size) is read at once: <s>, an id, the rows of one picture, then ids drawn from the whole vocabulary. The picture is
noise, by random() of test/support.ts, so that it need not be stored.

Of 576 x 65037 logits a few hundred kB are kept:

  ids [T]                      the text
  top_ids, top_logits [T, 8]   the largest of each position; the first is its argmax, the first two its margin
  norm [T]                     the length of each position's logits
  logits [T, 128]              a sketch: logit j is added to number h(j) with the sign s(j). Any error e has a sketch too, and the mean over
                               hashes of |sketch(e)|^2 is |e|^2: no logit is left out. One position's length is known to 1 / sqrt(2 * 128) =
                               6 %, all together to about 2 % (errors of neighbouring positions resemble each other: with all logits kept,
                               i8 was out by 1.83 % where the sketch says 1.86 %)
  stages [S, 512]              a sketch of each stage as a whole (6 % a stage): where an error comes from
"""
import json, sys
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Kosmos2ForConditionalGeneration

TOP, BUCKETS, STAGE_BUCKETS = 8, 128, 512


def xorshift(count, seed):
    """As random() of test/support.ts, before it is scaled."""
    words, state = np.empty(count, np.uint32), (seed * 2654435761) & 0xFFFFFFFF
    for i in range(count):
        state ^= (state << 13) & 0xFFFFFFFF
        state ^= state >> 17
        state ^= (state << 5) & 0xFFFFFFFF
        words[i] = state
    return words


def sketch(values, buckets):
    """[..., n] -> [..., buckets]"""
    h = np.arange(1, values.shape[-1] + 1, dtype=np.uint32)
    for factor, shift in ((2654435761, 15), (2246822519, 13), (3266489917, 16)):
        h *= np.uint32(factor)
        h ^= h >> np.uint32(shift)
    bucket, sign = h % np.uint32(buckets), np.where(h >> np.uint32(31), -1.0, 1.0)
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64) * sign
    out = np.stack([np.bincount(bucket, row, buckets) for row in flat])
    return out.reshape(*values.shape[:-1], buckets).astype(np.float32)


def main(folder, out, full=None):
    torch.set_grad_enabled(False)
    model = Kosmos2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    config, text, vision = model.config, model.config.text_config, model.config.vision_config
    latents, size, tokens = config.latent_query_num, vision.image_size, min(576, text.max_position_embeddings)
    pixels = ((xorshift(3 * size * size, 7) / 2**31 - 1) * 1.7).astype(np.float32).reshape(1, 3, size, size)
    ids = (3 + xorshift(tokens, 8).astype(np.uint64) % (text.vocab_size - 3)).astype(np.int32)
    ids[0] = text.bos_token_id
    mask = np.zeros(tokens, np.int64)
    mask[2:2 + latents] = 1

    stages = {}
    def keep(module, name):
        module.register_forward_hook(lambda _, args, y: stages.__setitem__(name, (y[0] if isinstance(y, tuple) else y)[0].numpy()))
    tower, decoder = model.vision_model.model, model.text_model.model
    for i, layer in enumerate(tower.encoder.layers):
        keep(layer, f"vision.layer.{i}")
    keep(model.image_to_text_projection, "image_embeds")
    for i, layer in enumerate(decoder.layers):
        keep(layer, f"text.layer.{i}")
    keep(decoder.layer_norm, "text.final_norm")
    logits = model(pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(ids.astype(np.int64))[None],
                   image_embeds_position_mask=torch.from_numpy(mask)[None], attention_mask=torch.ones(1, tokens, dtype=torch.long)).logits[0]

    top = logits.topk(TOP)
    rows = [i for i in range(tokens) if not mask[i]]
    differ = np.mean(top.indices[rows, 0].numpy() != ids[rows])
    logits = logits.numpy()
    norm = np.linalg.norm(logits.astype(np.float64), axis=1)
    estimate = np.linalg.norm(sketch(logits, BUCKETS).astype(np.float64), axis=1)
    print(f"{differ:.1%} of {len(rows)} argmaxes are not the token that went in; logits: spread {logits.std():.3f}, largest {np.abs(logits).max():.2f}, "
          f"margins {np.median(top.values[:, 0] - top.values[:, 1]):.3f}; sketched length / length {np.sqrt((estimate**2).sum() / (norm**2).sum()):.4f}")
    names = sorted(stages, key=list(stages).index)
    save_file({
        "ids": ids, "top_ids": top.indices.numpy().astype(np.int32), "top_logits": top.values.numpy(), "norm": norm.astype(np.float32), "logits": sketch(logits, BUCKETS),
        "stages": np.stack([sketch(stages[name].reshape(-1), STAGE_BUCKETS) for name in names]),
    }, out, metadata={"stages": json.dumps(names)})
    if full:  # all of them, to check the sketch against
        np.save(full, logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
