// The engine for Node: `fetch` there reads no files.
import { readFile } from 'node:fs/promises';
import { load as start } from './index.js';

export { Model, Picture, hasSimd, top } from './index.js';

export function load({ source = readFile, ...options } = {}) {
  return start({ source, ...options });
}
