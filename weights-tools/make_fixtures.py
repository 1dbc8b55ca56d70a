#!/usr/bin/env python3
"""Makes the example pictures and the project's own fixtures, so that a fresh clone tests parity without any goldens.

    python weights-tools/make_fixtures.py            # demo/pictures, test/fixtures/emoji, test/fixtures/processor, test/fixtures/tiny
    python weights-tools/make_fixtures.py tiny       # one of: pictures, emoji, processor, tiny

The reference is Hugging Face transformers on the CPU: fp32, eager attention, no_repeat_ngram_size explicit, images through Pillow.
Made with Python 3.11, torch 2.13.0 (CPU), transformers 5.18.0, tokenizers 0.23.2, Pillow 12.3.0, safetensors 0.8.0, NumPy 2.4.6;
pictures need the font of Debian's fonts-noto-color-emoji. The same versions give the same files.

cases.json and cases.safetensors have the goldens' form: `tensors` names each stage's shape and `limit`, the largest absolute
difference allowed to an fp32 engine: max(8 x the reference's own fp32-against-fp64 difference, 2e-6 x the stage's magnitude).
"""
import copy, json, math, random, shutil, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES, FIXTURES, MODEL = ROOT / "demo/pictures", ROOT / "test/fixtures", ROOT / "models/kosmos2-emoji"
CAPTION = "<grounding> An image of"
SMALLEST_MARGIN = 0.01  # a stored choice is never closer than this: about a thousand times the rounding


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n", encoding="ascii")


# ------------------------------------------------------------------------------------------------ pictures

SCENES = {  # file: seed of the scene, size of the picture (the processor brings every size back to 224 x 224)
    "keys.png": ("demo-44", (224, 224)),
    "rocket.png": ("demo-38", (320, 240)),
    "cactus.png": ("demo-0", (240, 360)),
    "balloons.png": ("demo-47", (1280, 960)),
    "penguin.jpg": ("demo-18", (480, 360)),
}


def make_pictures():
    sys.path.insert(0, str(ROOT / "weights-tools/emoji-tools"))
    import scenes
    from PIL import Image
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, (seed, size) in SCENES.items():
        picture, _, things = scenes.sample(random.Random(seed))
        if picture.size != size:
            picture = picture.resize(size, Image.BICUBIC)
        picture.save(PICTURES / name, **(dict(quality=88) if name.endswith("jpg") else dict(optimize=True)))
        print(f"  {name}: {', '.join(t for t, _ in things)}; {(PICTURES / name).stat().st_size} bytes")


# --------------------------------------------------------------------------------------------------- emoji

EMOJI = [("keys.png", CAPTION), ("keys.png", "<grounding> Question: How many keys are there? Answer:"),
         ("rocket.png", CAPTION), ("rocket.png", "<grounding><phrase> an apple</phrase>")]


def make_emoji():
    """What kosmos2-emoji says about two of the pictures, token by token."""
    import torch
    from PIL import Image
    from transformers import AutoProcessor, Kosmos2ForConditionalGeneration
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    processor = AutoProcessor.from_pretrained(MODEL)
    model = Kosmos2ForConditionalGeneration.from_pretrained(MODEL, attn_implementation="eager", dtype=torch.float32).eval()
    folder, cases = FIXTURES / "emoji", []
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompt in EMOJI:
        picture = Image.open(PICTURES / name)
        shutil.copyfile(PICTURES / name, folder / name)
        inputs = processor(text=prompt, images=picture, return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=96, do_sample=False, no_repeat_ngram_size=0,
                             return_dict_in_generate=True, output_logits=True)
        prompt_ids = inputs["input_ids"][0].tolist()
        new_ids = out.sequences[0, len(prompt_ids):].tolist()
        margins = [round(float(-torch.diff(row[0].topk(2).values)), 5) for row in out.logits]
        assert min(margins) >= SMALLEST_MARGIN, (name, prompt, margins)
        text = processor.batch_decode(out.sequences, skip_special_tokens=True)[0]
        caption, entities = processor.post_process_generation(text)
        cases.append(dict(image=name, prompt=prompt, prompt_ids=prompt_ids, new_ids=new_ids, margins=margins, generated_text=text,
                          processed_text=processor.post_process_generation(text, cleanup_and_extract=False),
                          caption=caption, entities=entities))
        print(f"  {name}: {caption} (smallest margin {min(margins)})")
    write_json(folder / "cases.json", dict(model="kosmos2-emoji", settings=dict(
        max_new_tokens=96, do_sample=False, no_repeat_ngram_size=0, skip_special_tokens=True), cases=cases))


# ---------------------------------------------------------------------------------------------------- tiny

VOCAB, LATENTS, IMAGE = 131, 5, 16
TEXT = dict(layers=2, embed_dim=32, attention_heads=4, ffn_dim=44, vocab_size=VOCAB, max_position_embeddings=512)
VISION = dict(num_hidden_layers=2, hidden_size=24, num_attention_heads=3, intermediate_size=40, image_size=IMAGE, patch_size=4)


def random_model(seed):
    """Weights that keep attention far from flat and logits within about 10, so that every parameter shows in the output."""
    import torch
    from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration
    config = Kosmos2Config(text_config=TEXT, vision_config=VISION, latent_query_num=LATENTS)
    model = Kosmos2ForConditionalGeneration._from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        owner, kind = name.split(".")[-2:]
        mean, deviation = 0.0, 1 / math.sqrt(p[0].numel())
        if "norm" in owner or "layrnorm" in owner or owner.endswith("_ln"):
            mean, deviation = (1.0, 0.3) if kind == "weight" else (0.0, 0.2)
        elif kind == "bias":
            deviation = 0.2
        elif kind in ("class_embedding", "latent_query") or owner == "dense":
            deviation = 1.0
        elif owner == "position_embedding":
            deviation = 0.5
        elif owner in ("embed_tokens", "q_proj", "k_proj"):
            deviation *= 1.6
        elif name.startswith("text_model") and owner in ("out_proj", "fc2"):
            deviation *= 4.0  # else tied embeddings would only repeat the last token
        p.copy_(mean + deviation * torch.randn(p.shape, generator=generator))
    return model


def vision_stages(model, pixels, interpolate=False):
    import torch
    tower, out = model.vision_model.model, {}
    x = out["vision.embeddings"] = tower.embeddings(pixels, interpolate_pos_encoding=interpolate)
    x = out["vision.pre_layrnorm"] = tower.pre_layrnorm(x)
    for i, layer in enumerate(tower.encoder.layers):
        x = out[f"vision.layer.{i}"] = layer(x, None)
    x = out["vision.post_layernorm"] = tower.post_layernorm(x)
    x = out["vision.features"] = torch.nn.functional.normalize(x, dim=-1)
    out["image_embeds"], out["projection.attention"] = model.image_to_text_projection(x)
    return out


def text_stages(model, ids, embeds=None, mask=None):
    import torch
    decoder, out, hooks = model.text_model.model, {}, []
    keep = lambda name, part=lambda o: o: lambda module, args, o: out.__setitem__(name, part(o).clone())
    hooks.append(decoder.layers[0].register_forward_pre_hook(lambda module, args: out.__setitem__("text.embeddings", args[0].clone())))
    hooks.append(decoder.layers[0].self_attn.register_forward_hook(keep("text.attention.0", lambda o: o[1])))
    hooks += [layer.register_forward_hook(keep(f"text.layer.{i}")) for i, layer in enumerate(decoder.layers)]
    hooks.append(decoder.layer_norm.register_forward_hook(keep("text.final_norm")))
    r = model.text_model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), use_cache=True,
                         image_embeds=embeds, image_embeds_position_mask=None if mask is None else torch.tensor([mask]))
    for hook in hooks:
        hook.remove()
    first = r.past_key_values.layers[0]
    out.update({"text.cache.0.key": first.keys.clone(), "text.cache.0.value": first.values.clone(), "logits": r.logits})
    return out, r.past_key_values


def forward_values(model, pixels, prompt, text_only, forced, larger):
    """All stages of one forward pass; run in fp32 for the files and in fp64 to measure the reference's own rounding."""
    import torch
    dtype = next(model.parameters()).dtype
    out = vision_stages(model, pixels[:1].to(dtype))
    text, past = text_stages(model, prompt[0], out["image_embeds"], prompt[1])
    out.update(text)
    seen, rows = len(prompt[0]), []
    for k, token in enumerate(forced):
        rows.append(model.text_model(input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True,
                                     attention_mask=torch.ones(1, seen + k + 1, dtype=torch.long)).logits[0, -1])
    out["cached_decode.logits"] = torch.stack(rows)
    out["text_only.logits"] = text_stages(model, text_only)[0]["logits"]
    stages = vision_stages(model, larger.to(dtype), interpolate=True)
    out.update({f"interpolate.0.{name}": stages[name] for name in ("vision.embeddings", "vision.features", "image_embeds")})
    return out


def group(name):
    """Stages of one kind share a limit."""
    name = name.removeprefix("interpolate.0.")
    if name.endswith("logits"):
        return "logits"
    if name.endswith("image_embeds"):
        return "image_embeds"
    return ".".join(name.split(".")[:2])


def greedy(model, prompt, embeds, eos, ngram, new):
    """(ids, smallest margin, the raw logits that chose each of them)."""
    import torch
    ids, mask = prompt
    r = model.generate(image_embeds=embeds, input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                       image_embeds_position_mask=torch.tensor([mask]), max_new_tokens=new, do_sample=False, pad_token_id=1,
                       no_repeat_ngram_size=ngram, eos_token_id=-1 if eos is None else eos, return_dict_in_generate=True,
                       output_scores=True, output_logits=True)
    margins = [round(float(-torch.diff(row[0].topk(2).values)), 6) for row in r.scores]
    return r.sequences[0, len(ids):].tolist(), margins, torch.stack([row[0] for row in r.logits])


def make_tiny(seed=3):
    import torch
    from safetensors.torch import save_file
    from transformers import GenerationConfig, Kosmos2ForConditionalGeneration
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    folder = FIXTURES / "tiny"
    shutil.rmtree(folder, ignore_errors=True)
    model = random_model(seed)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=2, pad_token_id=1, no_repeat_ngram_size=3)
    model.save_pretrained(folder)
    model = Kosmos2ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    draw = lambda n: [rng.randrange(4 + LATENTS, VOCAB - 2) for _ in range(n)]
    make_prompt = lambda words: ([0, VOCAB - 2, *range(4, 4 + LATENTS), VOCAB - 1, *draw(words)], [0, 0] + [1] * LATENTS + [0] * (1 + words))
    pixels, larger = torch.randn(2, 3, IMAGE, IMAGE, generator=generator), torch.randn(1, 3, 20, 28, generator=generator)
    embeds = [vision_stages(model, pixels[k:k + 1])["image_embeds"] for k in (0, 1)]

    def clear(words, image, runs):
        """A prompt all of whose runs are far from a tie and free of pads (which would disturb positions)."""
        for _ in range(1000):
            prompt = make_prompt(words)
            found = [greedy(model, prompt, embeds[image], **run) for run in runs]
            if all(min(margins) >= SMALLEST_MARGIN and 1 not in ids for ids, margins, _ in found):
                return prompt, found
        raise SystemExit("no prompt without near-ties: change the seed")

    runs = [dict(eos=None, ngram=3, new=16), dict(eos=None, ngram=0, new=16)]
    prompt, found = clear(6, 0, runs)
    stop = next(token for k, token in enumerate(found[0][0]) if k >= 5 and token not in found[0][0][:k])
    runs.append(dict(eos=stop, ngram=3, new=16))
    found.append(greedy(model, prompt, embeds[0], **runs[2]))
    tensors, cases = {"pixel_values": pixels, "interpolate.0.pixel_values": larger}, []
    for name, run, (ids, margins, logits) in zip(("ngram3_noeos", "ngram0_noeos", "ngram3_eos"), runs, found):
        tensors[f"greedy.{name}.logits"] = logits
        cases.append(dict(prompt="prompt", name=name, options=dict(max_new_tokens=run["new"], no_repeat_ngram_size=run["ngram"], eos_token_id=run["eos"]),
                          new_ids=ids, min_margin=min(margins), margins=margins, teacher_forced_logits=f"greedy.{name}.logits"))

    rows, batch_rows = [], []
    for k, words in enumerate((3, 8, 5)):
        row, [(ids, margins, logits)] = clear(words, k % 2, [dict(eos=None, ngram=3, new=6)])
        rows.append(row)
        tensors[f"batch.{k}.decode_logits"], tensors[f"batch.{k}.image_embeds"] = logits, embeds[k % 2]
        batch_rows.append(dict(new_ids=ids, min_margin=min(margins), image=k % 2, decode_logits=f"batch.{k}.decode_logits", image_embeds=f"batch.{k}.image_embeds"))
    width = max(len(ids) for ids, _ in rows)
    def pad(left, fill, row):
        return [fill] * (width - len(row)) + row if left else row + [fill] * (width - len(row))
    batch = {side: dict(input_ids=[pad(left, 1, ids) for ids, _ in rows], attention_mask=[pad(left, 0, [1] * len(ids)) for ids, _ in rows],
                        image_embeds_position_mask=[pad(left, 0, mask) for _, mask in rows]) for side, left in (("left", True), ("right", False))}

    forced, text_only = draw(4), [0] + draw(7)
    values = forward_values(model, pixels, prompt, text_only, forced, larger)
    torch.set_default_dtype(torch.float64)
    exact = forward_values(copy.deepcopy(model).double(), pixels, prompt, text_only, forced, larger)
    torch.set_default_dtype(torch.float32)
    limits = {}
    for name, value in values.items():
        limit = max(8 * float((value.double() - exact[name]).abs().max()), 2e-6 * float(exact[name].abs().max()))
        limits[group(name)] = max(limits.get(group(name), 0), limit)
    tensors.update(values)
    limit = lambda name: 1e-6 if name.endswith("pixel_values") else float(f"{limits[group(name)]:.1e}")
    save_file({name: value.float().contiguous().clone() for name, value in tensors.items()}, folder / "cases.safetensors")
    write_json(folder / "cases.json", dict(
        model="tiny", description="values of one random checkpoint; made by weights-tools/make_fixtures.py", stored_dtype="float32", computed_in="float32",
        prompt=dict(input_ids=prompt[0], attention_mask=[1] * len(prompt[0]), image_embeds_position_mask=prompt[1]), image="row 0 of pixel_values",
        cached_decode=dict(after="prompt", forced_ids=forced, logits="cached_decode.logits"), greedy=cases,
        text_only=dict(input_ids=text_only, logits="text_only.logits"),
        batch=dict(options=dict(max_new_tokens=6, no_repeat_ngram_size=3, eos_token_id=None), rows=batch_rows, **batch),
        interpolate_pos_encoding=[dict(height=20, width=28, pixel_values="interpolate.0.pixel_values",
                                       tensors=[name for name in sorted(tensors) if name.startswith("interpolate.0.") and "pixel" not in name])],
        tensors={name: dict(stage=name, group=group(name), shape=list(value.shape), limit=limit(name)) for name, value in sorted(tensors.items())}))
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    print(f"  tiny: {sizes}, |logits| {float(values['logits'].abs().max()):.1f}, attention {float(values['text.attention.0'][..., -1, :].max()):.2f}")
    for case in cases:
        print("   ", case["name"], case["new_ids"], case["min_margin"])


# ----------------------------------------------------------------------------------------------- processor

def make_processor():
    """Texts, ids, calls, answers and boxes through the processor of kosmos2-emoji. Needs no torch."""
    from PIL import Image
    from transformers import Kosmos2Processor
    from transformers.models.kosmos2.processing_kosmos2 import coordinate_to_patch_index, patch_index_to_coordinate
    folder = FIXTURES / "processor"
    folder.mkdir(parents=True, exist_ok=True)
    sides = {side: Kosmos2Processor.from_pretrained(MODEL, padding_side=side) for side in ("right", "left")}
    proc, image, rng = sides["right"], Image.new("RGB", (60, 50)), random.Random(3)
    P, DEL = "<patch_index_{:04d}>".format, "</delimiter_of_multi_objects/>"
    words = "An image of two keys and a panda on white background Question How many ? Answer : .".split()
    def sentence(most=8):
        return " ".join(rng.choice(words) for _ in range(rng.randint(1, most)))

    texts = ["", " ", CAPTION, "<grounding>An", "   <grounding>   An", "An  image", "a\tb", "a\u0085<object>b", "\ufeff<phrase>\ufeff", "\u3000<phrase>x</phrase>.", "\uff1cs\uff1e and \uff1cunk\uff1e\u2603",
             "<s>a</s>", "a <mask> b", "<pad> <unk>", "\u2581a\u2581", "a\u2581b", "\u2603\u2603 \u2603a\u2603", "\U0001f600 keys", "\ufb01ne \u00bd", "e\u0301", "<patch_index_1024>", "<patch_index_44>", "< image>", "<<s>>",
             f"<phrase> It</phrase><object>{P(44)}{P(863)}</object> is", "\ufdd0<s>\ufdd0", "pandapanda", "x" * 60] + [sentence() for _ in range(12)]
    encode = [dict(text=t, ids=proc.tokenizer(t, add_special_tokens=False).input_ids, ids_special=proc.tokenizer(t).input_ids) for t in texts]

    lists = [[], [0], [2, 2], [448], [448, 448, 5], [3, 5], list(range(40)), [460, 455, 5, 456, 457, 461, 462, 458, 6, 2]] + [[rng.randrange(1485) for _ in range(rng.randint(1, 12))] for _ in range(12)]
    lists += [proc.tokenizer(t, add_special_tokens=False).input_ids for t in ("there ' s two", "a .", "two ? . !", "it 's", "do n't", "a  ' m", "x n ' t")]
    decode = [dict(ids=ids, text=proc.batch_decode([ids], skip_special_tokens=True)[0], text_with_special=proc.batch_decode([ids], skip_special_tokens=False)[0]) for ids in lists]

    prompts = []
    def plain(value):
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value
    def call(text=None, images=None, bboxes=None, side="right", **flags):
        given = image if images == "one" else None if images is None else [image] * images
        case = dict(text=text, images=images, bboxes=plain(bboxes), padding_side=side, flags=flags)
        try:
            out = sides[side](images=given, text=text, **flags, **(dict(bboxes=bboxes) if bboxes is not None else {}))
            case.update(output={k: out[k] for k in out if k != "pixel_values"}, has_pixel_values="pixel_values" in out)
        except ValueError as e:
            case.update(error="ValueError", message=str(e).split("\n")[0])
        prompts.append(case)
    two = "<grounding> Is<phrase> a key</phrase> left of<phrase> it</phrase>?"
    for images in (None, "one"):
        call(CAPTION, images); call(CAPTION, images, add_eos_token=True); call(CAPTION, images, add_special_tokens=False); call(" ", images)
        call(two, images, bboxes=[(44, 863), None]); call(two, images, bboxes=[[(0.1, 0.2, 0.3, 0.4), (0, 5)], []])
    call(None, "one"); call(None, 2); call(CAPTION, 1); call([CAPTION], "one"); call(CAPTION, "one", num_image_tokens=3, first_image_token_id=50)
    call(two, "one", padding="max_length", max_length=90); call(two, "one", truncation=True, max_length=70); call(two, None, truncation=True, max_length=5); call(two, None, max_length=4)
    call(two, None, padding="max_length", max_length=20); call(two, None, padding=True, truncation=True, max_length=6, pad_to_multiple_of=4)
    for side in ("right", "left"):
        batch = [CAPTION, two, "a"]
        call(batch, 3, side=side); call(batch, 3, side=side, padding=True, pad_to_multiple_of=8); call(batch, 3, side=side, padding="max_length", max_length=90, add_eos_token=True)
        call(batch, None, side=side); call(batch, None, side=side, padding=True); call(batch, None, side=side, padding="max_length", max_length=6)
        call(batch, 3, side=side, bboxes=[None, [(1, 40), [(3, 4), (5, 6)]], []]); call(["a", "a"], 2, side=side)
    call(); call(["a", "b"], 1); call("a", 2); call([two, two], 2, bboxes=[None]); call(two, bboxes=[(1, 2)]); call("a", bboxes=[(1, 2)])
    call(two, bboxes=[(0.5, 0.2, 0.5, 0.6), None]); call(two, bboxes=[(1, 2, 3), None]); call(two, bboxes=[[None], None]); call(two, bboxes=[(0.5, 1.5), None]); call(two, bboxes=[[[(1, 2)], None]])

    obj = lambda *pairs: "<object>" + DEL.join(P(a) + P(b) for a, b in pairs) + "</object>"
    one = obj((1, 40))
    answers = [f"<grounding><phrase> A red kite</phrase>{obj((33, 70))} over<phrase> two boats</phrase>{obj((512, 620), (530, 640))}.", f"It is{obj((5, 5))} here", f"<grounding> Look:{obj((0, 31), (0, 992))} ok",
               "<phrase>a tree</phrase> stands alone", f"<phrase>a tree</phrase> {one} stands", f"<phrase>a tree</phrase><object>{P(1)}{P(40)} </object> stands", f"<phrase>a tree</phrase><object>{P(1)}{P(40)}"]
    answers += [f"<phrase>a tree</phrase><object>{m}</object> stands" for m in (P(1) + P(40) + P(77), P(1), P(1) + P(40) + DEL, P(1) + P(40) + DEL + P(2))]
    answers += [f"<phrase>a tree{one} stands", f"<phrase>a <phrase>b</phrase>{one} stands", f"<phrase></phrase>{one} stands", f"<phrase>  spaced  </phrase>{one}  end  ", f"   lead<phrase> x</phrase>{obj((1023, 0))}",
                f"5 < 6<phrase> x</phrase>{one}", f"\u00e9\U0001f600<phrase> x\U0001f600</phrase>{one}", f"<phrase> a</phrase>{one}<phrase> a</phrase>{one}", "<phrase>a</phrase><object><patch_index_7><patch_index_00012></object>",
                f"line one\n<phrase>two\nlines</phrase>{one}", f"a<b\nc>d<phrase> x</phrase>{one}", "", "<grounding>", "<", "<<>>", "a</image>b</image>  c ", f"\x1c\ufeff<phrase>\x85x\x1f</phrase>{one}\u3000", f"<phrase>   </phrase>{one}",
                "<phrase>a > b</phrase><object><patch_index_\u0664\u0664><patch_index_\U0001d7d8\U0001d7e5></object>"]
    postprocess = []
    for text in answers:
        clean, entities = proc.post_process_generation(text)
        postprocess.append(dict(text=text, raw=proc.post_process_generation(text, cleanup_and_extract=False), clean=clean, entities=[dict(name=n, span=list(s), boxes=[list(b) for b in bs]) for n, s, bs in entities]))

    boxes = [(0., 0., 1., 1.), (0., 0., .03125, .03125), (.1, .2, .3, .4), (.390625, .046875, .984375, .828125), (.999, .999, 1., 1.), (0., 0., 1e-9, 1e-9), (-.1, 0., .5, .5), (.9, .9, 1.2, 1.3), (.5, .5, .5, .75), (.5, .5, .4, .75)]
    rows = []
    for box in boxes:
        try: rows.append(dict(box=list(box), indices=list(coordinate_to_patch_index(box, 32))))
        except ValueError: rows.append(dict(box=list(box), error="ValueError"))
    pairs = [(0, 0), (0, 1023), (0, 31), (0, 992), (33, 34), (33, 65), (33, 66), (66, 33), (40, 1), (1023, 1023), (44, 863)]
    for name, cases in (("encode", encode), ("decode", decode), ("prompts", prompts), ("postprocess", postprocess)):
        write_json(folder / f"{name}.json", dict(cases=cases))
    write_json(folder / "boxes.json", dict(encode=rows, decode=[dict(indices=list(p), box=list(patch_index_to_coordinate(*p, 32))) for p in pairs]))
    print(f"  processor: {len(encode)} encode, {len(decode)} decode, {len(prompts)} prompts, {len(postprocess)} postprocess, {len(rows) + len(pairs)} boxes")


if __name__ == "__main__":
    for part in sys.argv[1:] or ["pictures", "emoji", "processor", "tiny"]:
        dict(pictures=make_pictures, emoji=make_emoji, processor=make_processor, tiny=make_tiny)[part]()
