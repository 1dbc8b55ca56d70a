import assert from "node:assert/strict";
import { test } from "node:test";
import { generationConfig, readGenerationConfig } from "#src/generate/config.js";
import { Kosmos2Config } from "#src/model/config.js";
import { openModel } from "#src/weights/source.js";

const text = (json: object) => Kosmos2Config.fromJSON({ text_config: json }).textConfig;

test("generationConfig lets generation_config.json win over the text config, and that over the released value", () => {
  assert.equal(generationConfig(text({}), {}).noRepeatNgramSize, 3);
  assert.equal(generationConfig(text({ no_repeat_ngram_size: 4 }), {}).noRepeatNgramSize, 4);
  assert.equal(generationConfig(text({ no_repeat_ngram_size: 4 }), { no_repeat_ngram_size: 0 }).noRepeatNgramSize, 0);
  assert.equal(generationConfig(text({ no_repeat_ngram_size: 0 })).noRepeatNgramSize, 0);
  assert.equal(generationConfig(text({ no_repeat_ngram_size: 0 }), { no_repeat_ngram_size: null }).noRepeatNgramSize, 0);
  assert.deepEqual(generationConfig(text({ eos_token_id: 9 }), { eos_token_id: [2, 5] }).eosTokenId, [2, 5]);
  assert.deepEqual(generationConfig(text({ eos_token_id: 9, pad_token_id: 4 }), { bos_token_id: 6 }),
    { bosTokenId: 6, padTokenId: 4, eosTokenId: [9], noRepeatNgramSize: 3 });
});

test("generationConfig refuses what can't be", () => {
  assert.throws(() => generationConfig(text({}), []), { code: "config-invalid" });
  assert.throws(() => generationConfig(text({}), { bos_token_id: [] }), /bos_token_id is \[\]; wanted a whole number/);
  assert.throws(() => generationConfig(text({}), { eos_token_id: "2" }), /eos_token_id is "2"; wanted an id or a list of ids/);
  for (const name of ["bos", "pad", "eos"]) // 65037 tokens: the last is 65036
    assert.throws(() => generationConfig(text({}), { [`${name}_token_id`]: 65037 }), { code: "config-invalid", message: new RegExp(`${name}_token_id is 65037; wanted .*, less than 65037`) });
  assert.equal(generationConfig(text({}), { no_repeat_ngram_size: 70000 }).noRepeatNgramSize, 70000);
  assert.throws(() => generationConfig(text({}), { no_repeat_ngram_size: -1 }), { code: "config-invalid" });
});

test("readGenerationConfig does without the file", async () => {
  const files = await openModel({ "config.json": new Uint8Array() });
  assert.equal((await readGenerationConfig(files, text({}))).noRepeatNgramSize, 3);
  const broken = await openModel({ "generation_config.json": new TextEncoder().encode("{") });
  await assert.rejects(readGenerationConfig(broken, text({})), /given files: generation_config.json": it is not JSON/);
  const emoji = await readGenerationConfig(await openModel("kosmos2-emoji"), text({}));
  assert.deepEqual([emoji.noRepeatNgramSize, emoji.eosTokenId], [0, [2]]);
});
