// The engine for browsers and bundlers. `load` first, then `new Model(bytes)`, `Picture.decode(bytes)`.
import init, { Model, Picture } from './dsconv_web.js';

export { Model, Picture };

// A module with one vector instruction, i8x16.popcnt, which only engines with SIMD accept.
const WITH_SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

export function hasSimd() {
  return WebAssembly.validate(WITH_SIMD);
}

export async function load({ simd = hasSimd(), source } = {}) {
  // Bundlers look for `new URL` of a literal.
  const file = simd
    ? new URL('./dsconv_web_simd.wasm', import.meta.url)
    : new URL('./dsconv_web_plain.wasm', import.meta.url);
  await init({ module_or_path: source ? source(file) : file });
}

export function top(model, logits, count = 5) {
  const probabilities = model.probabilities(logits);
  const names = model.classes;
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  return order.slice(0, count).map((index) => ({ index, name: names[index], probability: probabilities[index] }));
}
