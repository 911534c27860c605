// Times the engine and ONNX Runtime Web on the same networks, interleaved on one page of headless Chromium:
//   node experiments/web/time.mjs FOLDER [--rounds 9] [--threads 1] [--plain] [NETWORK...]
// FOLDER holds what `prepare.py` made, and node_modules with puppeteer-core and onnxruntime-web; `dsconv` is target/demo/npm.
import { cpSync, existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { serve } from '../../crates/web/serve.mjs';

const { values, positionals: [given, ...names] } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: 'string', default: '9' }, threads: { type: 'string', default: '1' }, plain: { type: 'boolean', default: false } },
});
const folder = resolve(given);
const load = createRequire(join(folder, 'package.json'));
const root = fileURLToPath(new URL('../../', import.meta.url));
cpSync(join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'demo/npm'), join(folder, 'dsconv'), { recursive: true });
cpSync(join(folder, 'node_modules/onnxruntime-web/dist'), join(folder, 'ort'), { recursive: true, filter: (path) => !/webgpu|webgl|jsep|jspi|asyncify|\.map$/.test(path) });
cpSync(fileURLToPath(new URL('time.html', import.meta.url)), join(folder, 'time.html'));

const { server, url } = await serve(folder, 0);
const browser = await load('puppeteer-core').launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'], protocolTimeout: 600_000,
});
const page = await browser.newPage();
page.on('pageerror', (error) => console.error(error));
const columns = { 'ORT Web FP32': '.onnx', 'ORT Web INT8': '_int8.onnx', 'dsconv FP32': '_fp32.safetensors', 'dsconv W4A4': '_w4a4.dsc', 'dsconv W4A8': '_w4a8.dsc', 'dsconv two-level': '_two-level.dsc' };
console.log(`| ms, one image | ${Object.keys(columns).join(' | ')} |\n|${'---|'.repeat(Object.keys(columns).length + 1)}`);
const all = readdirSync(folder).filter((name) => name.endsWith('_w4a4.dsc')).map((name) => name.replace('_w4a4.dsc', ''));
try {
  for (const name of names.length ? names : all) {
    await page.goto(`${url}time.html`);
    await page.waitForSelector('body[data-ready]');
    const paths = Object.values(columns).map((ending) => name + ending).filter((path) => existsSync(join(folder, path)));
    const shape = name.endsWith('-embedded') ? [3, 32, 32] : [3, 224, 224];
    const { times, logits, isolated } = await page.evaluate((what) => window.time(what), { paths, shape, rounds: Number(values.rounds), threads: Number(values.threads), simd: !values.plain });
    if (!isolated) throw new Error('the page is not isolated: times are rounded');
    // The two in floats compute the same.
    const largest = Math.max(...logits[0].map(Math.abs));
    const off = Math.max(...logits[0].map((value, i) => Math.abs(value - logits[2][i]))) / largest;
    if (!(off < 1e-3)) throw new Error(`${name}: the logits in floats differ by ${off} of the largest`);
    console.log(`| ${name} | ${times.map((ms) => ms.toFixed(ms < 10 ? 2 : 1)).join(' | ')} |`);
  }
} finally {
  await browser.close();
  server.close();
}
