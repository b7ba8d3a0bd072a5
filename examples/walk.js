// Steps through the layers of one pass, reads the residual stream, and steers it at one layer.
//
//   node examples/walk.js [MODEL]
import { MusicGen, tf } from "tonearm";

import { modelDirectory } from "./model.js";

const model = await MusicGen.load(await modelDirectory(process.argv[2]));
const text = "slow jazz trio";
const { codes } = await model.generate({ text, frames: 50, seed: 1 });

console.log("how long the residual stream is at the last position, layer by layer:");
for await (const at of model.walk({ text, codes }, "blocks.*.hook_resid_post")) {
  const last = tf.tidy(() => tf.norm(tf.slice(at.value, [0, at.positions.length - 1, 0], [1, 1, -1])));
  console.log(`  ${at.site}  ${(await last.data())[0]?.toFixed(3)}`);
  last.dispose();
}

const direction = tf.randomNormal([model.config.decoder.width], 0, 1, "float32", 7);
let steered = 0;
const { audio } = await model.generate({
  text,
  frames: 50,
  seed: 1,
  hooks: [
    {
      name: "push",
      sites: ["resid_post", -2],
      run: (value, at) => {
        if (at.phase === "prefill" || (at.seconds[0] ?? 0) < 0.5) return undefined; // from half a second on
        steered++;
        return tf.tidy(() => tf.add(value, tf.mul(direction, 2)));
      },
    },
  ],
});
console.log(`steered ${steered} steps of ${audio.channels[0]?.length} samples`);
direction.dispose();
await model.dispose();
