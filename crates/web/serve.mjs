// Serves a folder of static files: node crates/web/serve.mjs FOLDER [PORT] [ADDRESS]
// Only this machine sees it, unless ADDRESS is 0.0.0.0. Text and WebAssembly are sent compressed.
import { createServer } from 'node:http';
import { readFile, realpath } from 'node:fs/promises';
import { extname, join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const TYPES = {
  '.css': 'text/css', '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.json': 'application/json', '.mjs': 'text/javascript',
  '.png': 'image/png', '.svg': 'image/svg+xml', '.wasm': 'application/wasm',
};

/** Starts a server; port 0 takes any. Returns it and its address. */
export async function serve(folder, port = 8642, address = '127.0.0.1') {
  const root = await realpath(folder);
  const server = createServer(async (request, response) => {
    try {
      const path = decodeURIComponent(new URL(request.url, 'http://localhost').pathname);
      const file = await realpath(join(root, path.endsWith('/') ? `${path}index.html` : path));
      if (!file.startsWith(root + sep)) throw new Error('outside of the folder');
      const bytes = await readFile(file);
      const type = TYPES[extname(file)];
      const zips = type && type !== 'image/png' && /\bgzip\b/.test(request.headers['accept-encoding'] ?? '');
      response.writeHead(200, {
        'content-type': type ?? 'application/octet-stream',
        'cache-control': 'no-store',
        // Threads and exact times, for measuring.
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
        ...(zips && { 'content-encoding': 'gzip' }),
      });
      response.end(zips ? gzipSync(bytes, { level: 9 }) : bytes);
    } catch {
      response.writeHead(404, { 'content-type': 'text/plain' }).end('not found\n');
    }
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, address, resolve);
  });
  return { server, url: `http://${address === '0.0.0.0' ? 'localhost' : address}:${server.address().port}/` };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, port, address] = process.argv.slice(2);
  if (!folder) {
    console.error('serve: error: no folder: node crates/web/serve.mjs FOLDER [PORT] [ADDRESS]');
    process.exit(2);
  }
  try {
    const { url } = await serve(folder, port && Number(port), address);
    console.log(`The demo is at ${url} until Ctrl-C.`);
  } catch (error) {
    console.error(`serve: error: ${error.message}`);
    process.exit(1);
  }
}
