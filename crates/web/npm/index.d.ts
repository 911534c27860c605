import type { InitInput, Model } from './dsconv_web.js';

export { Model, Picture } from './dsconv_web.js';

export interface LoadOptions {
  /** Whether the build with SIMD runs; by default it does where WebAssembly has SIMD. */
  simd?: boolean;
  /** Gives the WebAssembly for its address, where it is not fetched from there. */
  source?: (file: URL) => InitInput | Promise<InitInput>;
}

export interface Class {
  /** The position of the class. */
  index: number;
  /** Its name, where the file has names. */
  name: string | undefined;
  /** Its probability, or the output itself where no probability follows from the outputs. */
  probability: number;
}

/** Returns whether WebAssembly has SIMD here. */
export function hasSimd(): boolean;

/** Loads the engine; call it once, before all else. Another call does nothing. */
export function load(options?: LoadOptions): Promise<void>;

/** Returns the likeliest classes of one picture's logits, best first. */
export function top(model: Model, logits: Float32Array, count?: number): Class[];
