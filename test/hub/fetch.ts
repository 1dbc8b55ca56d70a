/** A process of its own that loads a model: `node fetch.js ENDPOINT CACHE_DIR ID`. Says the error's code, or `whole`. */
import { openHub } from "#src/hub/hub.js";
import { openHubStore } from "#src/platform/node/hub-store.js";
import { quick } from "./support.js";

const [endpoint, cacheDir, id] = process.argv.slice(2);
const store = await openHubStore(id, cacheDir, { timing: { beatMs: 100, silentMs: 2_000, pollMs: 10 } });
try {
  await openHub(id, { endpoint, store, token: false, tuning: quick, onProgress: ({ loaded, total }) => process.send?.({ loaded, total }) });
  console.log("whole");
} catch (error) {
  console.log((error as { code?: string }).code ?? String(error));
}
process.disconnect?.();
