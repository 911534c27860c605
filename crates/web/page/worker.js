// Runs the engine, so that the page never waits. A message is `{ id, does, ...what }`, its answer `{ id, result }` or
// `{ id, error, fatal }`; after a fatal one the page ends this worker and starts another.
import { load, Model, Picture, top } from './dsconv/index.js';

/** The networks, `{ model, info }`, by slot: `float` and `dsconv`. */
const networks = new Map();
const ready = load(new URL(location).searchParams.has('plain') ? { simd: false } : {});

/** The least time in ms for which a picture is run, so that the fastest run says something. */
const MEASURED = 100;

const actions = {
  load({ name, bytes, wire }) {
    const start = performance.now();
    const data = new Uint8Array(bytes);
    const model = new Model(data);
    const loading = performance.now() - start;
    const isDsc = data[0] === 0x89 && data[1] === 0x44;
    const info = {
      file: name,
      bytes: data.length,
      wire,
      loading,
      verified: isDsc && model.verify(data),
      name: model.name,
      source: model.source,
      classes: model.classes,
      shape: [...model.shape],
      outputs: model.outputs,
      parameters: model.parameters,
      weightBits: model.weightBits,
      activationBits: model.activationBits,
      kernel: model.kernel,
    };
    const slot = info.weightBits === undefined ? 'float' : 'dsconv';
    networks.get(slot)?.model.free();
    networks.set(slot, { model, info });
    // Networks stand side by side only if they do the same.
    const other = slot === 'float' ? 'dsconv' : 'float';
    const beside = networks.get(other);
    const same = beside && beside.info.outputs === info.outputs && String(beside.info.shape) === String(info.shape);
    if (beside && !same) {
      beside.model.free();
      networks.delete(other);
    }
    return { slot, info, removed: beside && !same ? other : undefined };
  },

  classify({ bytes, rgba, width, height, once }) {
    let start = performance.now();
    const picture = bytes ? Picture.decode(new Uint8Array(bytes)) : Picture.fromRgba(width, height, new Uint8ClampedArray(rgba));
    try {
      const decoding = performance.now() - start;
      const results = {};
      for (const [slot, { model }] of networks) {
        start = performance.now();
        const input = model.input(picture);
        const preparing = performance.now() - start;
        let logits;
        let ms = Infinity;
        let runs = 0;
        const began = performance.now();
        do {
          start = performance.now();
          logits = model.run(input);
          ms = Math.min(ms, performance.now() - start);
          runs += 1;
        } while (!once && performance.now() - began < MEASURED);
        results[slot] = { top: top(model, logits), logits, preparing, ms, runs };
      }
      return { width: picture.width, height: picture.height, decoding, results };
    } finally {
      picture.free();
    }
  },

  /** Returns what this worker has fetched. */
  fetched() {
    return performance.getEntriesByType('resource').map(({ name, encodedBodySize }) => ({ name, bytes: encodedBodySize }));
  },
};

addEventListener('message', async ({ data: { id, does, ...what } }) => {
  try {
    await ready;
    postMessage({ id, result: actions[does](what) });
  } catch (error) {
    const message = String(error?.message ?? error);
    const fatal = error instanceof WebAssembly.RuntimeError || message.startsWith('a defect in dsconv');
    const memory = error instanceof WebAssembly.RuntimeError ? 'there is not enough memory, or there is a defect in dsconv: ' : '';
    postMessage({ id, error: memory + message, fatal });
  }
});
