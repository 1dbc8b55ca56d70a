/** The engine as the checks of captions see it: through the public classes, like any user. */
import { Kosmos2ForConditionalGeneration, Kosmos2Processor, type LoadOptions } from "../../index.js";
import { tensor } from "../../tensor.js";
import type { Captioner } from "./captions.js";

export async function openCaptioner(source: string, options: LoadOptions): Promise<Captioner & { dispose(): Promise<void> }> {
  const processor = await Kosmos2Processor.fromPretrained(source, { signal: options.signal });
  const model = await Kosmos2ForConditionalGeneration.fromPretrained(source, options);
  const see = (image: string, text: string, signal?: AbortSignal) => processor.process({ text, images: image, signal });
  return {
    async answer(image, prompt, options) {
      const inputs = await see(image, prompt, options.signal);
      const { sequences, newIds } = await model.generate({ ...inputs, ...options });
      const [generatedText] = processor.batchDecode(sequences, { skipSpecialTokens: true });
      const { caption, entities } = processor.postProcessGeneration(generatedText, { imageSize: inputs.imageSizes[0] });
      const processedText = processor.postProcessGeneration(generatedText, { cleanupAndExtract: false });
      return { promptIds: [...inputs.inputIds.data], newIds: newIds[0], generatedText, processedText, caption, entities };
    },
    async choices(image, prompt, answer, signal) {
      const inputs = await see(image, prompt, signal);
      const { length } = inputs.inputIds.data;
      const longer = ({ data }: { data: Int32Array }, more: readonly number[]) => tensor("int32", Int32Array.from([...data, ...more]), [1, data.length + more.length]);
      const nothing = answer.map(() => 0);
      const { logits } = await model.forward({
        ...inputs, signal,
        inputIds: longer(inputs.inputIds, answer), attentionMask: longer(inputs.attentionMask, answer.map(() => 1)),
        imageEmbedsPositionMask: longer(inputs.imageEmbedsPositionMask, nothing),
      });
      const vocab = logits.dims[2];
      return answer.map((_, i) => {
        const row = logits.data.subarray((length - 1 + i) * vocab, (length + i) * vocab);
        return row.reduce((best, value, id) => (value > row[best] ? id : best), 0);
      });
    },
    dispose: () => model.dispose(),
  };
}
