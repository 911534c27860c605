// The demo page in a real browser, and the npm package in Node, against the native command. `.ci/demo` prepares what it needs:
//   DEMO_FOLDER=FOLDER CHROMIUM=/usr/bin/chromium node --test crates/web/tests/demo.mjs
// FOLDER has `page/`, `files/` (networks and pictures), `expected.json` (`{ FILE: { PICTURE: logits } }`, of `dsconv predict`)
// and `node_modules/`. Screenshots go to FOLDER/shots.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { after, before, test } from 'node:test';
import { serve } from '../serve.mjs';

const folder = resolve(process.env.DEMO_FOLDER);
const inFiles = (name) => join(folder, 'files', name);
const load = createRequire(join(folder, 'package.json'));
const puppeteer = load('puppeteer-core');
const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'));
const networks = Object.keys(expected);
const pictures = Object.keys(expected[networks[0]]);
mkdirSync(join(folder, 'shots'), { recursive: true });

/** The bits of f32 values. */
const bits = (values) => [...new Uint32Array(Float32Array.from(values).buffer)];

let server;
let browser;
let url;

before(async () => {
  ({ server, url } = await serve(join(folder, 'page'), 0));
  browser = await puppeteer.launch({
    executablePath: process.env.CHROMIUM,
    // Without a user namespace, as in containers, Chromium has no sandbox.
    args: ['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'],
    protocolTimeout: 60_000,
  });
});
after(async () => {
  await browser?.close();
  server?.close();
});

/** Opens the page, waits until it is ready, and gives it to `body`; what it says on its console, or asks of others, fails. */
async function onPage(query, body, viewport = { width: 1100, height: 900 }) {
  const page = await browser.newPage();
  const wrong = [];
  page.on('console', (message) => ['error', 'warn'].includes(message.type()) && wrong.push(message.text()));
  page.on('pageerror', (error) => wrong.push(String(error)));
  page.on('requestfailed', (request) => wrong.push(`${request.url()} failed`));
  page.on('response', (response) => response.status() >= 400 && wrong.push(`${response.url()}: ${response.status()}`));
  page.on('request', (request) => {
    const to = request.url();
    if (!to.startsWith(url) && !to.startsWith(`blob:${url}`)) wrong.push(`asks for ${to}`);
  });
  try {
    await page.setViewport(viewport);
    await page.goto(`${url}${query}`);
    await page.waitForSelector('body[data-ready]', { timeout: 60_000 });
    await body(page);
    assert.deepEqual(wrong, []);
  } finally {
    await page.close();
  }
}

/** Drops files on the page, as a person does. */
async function drop(page, files) {
  const client = await page.createCDPSession();
  const data = { items: [], files, dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop']) await client.send('Input.dispatchDragEvent', { type, x: 300, y: 300, data });
  await client.detach();
}

/** Waits for `count` results of pictures of this name, and returns the newest one's logits by slot. */
async function logitsOf(page, name, count = 1) {
  await page.waitForFunction((name, count) => document.querySelectorAll(`[data-file="${name}"]`).length >= count, { timeout: 60_000 }, name, count);
  return page.$eval(`[data-file="${name}"]`, (card) => Object.fromEntries(
    [...card.querySelectorAll('.pair > div')].map((column) => [column.className, column.querySelector('.logits').textContent.split(' ').map(Number)]),
  ));
}

async function problems(page, count) {
  await page.waitForFunction((count) => document.querySelectorAll('#problems .problem').length >= count, { timeout: 60_000 }, count);
  return page.$$eval('#problems .problem span', (all) => all.map((one) => one.textContent));
}

for (const query of ['', '?plain']) {
  test(`dropped networks and pictures give the native logits, to the bit${query && ', without SIMD'}`, () => onPage(query, async (page) => {
    assert.equal((await page.$$('#results > li')).length, 1, 'a picture is classified at the start');
    for (const slot of ['float', 'dsconv']) {
      assert.match(await page.$eval(`#${slot} .info`, (place) => place.textContent), query ? /Kernelscalar/ : /Kernelsimd128/);
    }
    let dropped = 0;
    for (const network of networks) {
      await drop(page, [network, ...pictures].map(inFiles));
      dropped += 1;
      for (const picture of pictures) {
        const found = await logitsOf(page, picture, dropped);
        assert.deepEqual(bits(found.dsconv), bits(expected[network][picture]), `${network}: ${picture}`);
      }
      assert.match(await page.$eval('#dsconv .info', (place) => place.textContent), /stored logits, to the bit/);
    }
    assert.deepEqual(await problems(page, 0), []);
  }));
}

test('a damaged file is a sentence, and the page goes on', () => onPage('', async (page) => {
  const dsc = readFileSync(inFiles(networks[0]));
  const picture = readFileSync(inFiles(pictures[0]));
  const flipped = Buffer.from(dsc);
  flipped[dsc.length >> 1] ^= 1;
  const damaged = {
    'cut.dsc': dsc.subarray(0, dsc.length >> 1),
    'flipped.dsc': flipped,
    'empty.dsc': Buffer.alloc(0),
    'text.dsc': Buffer.from('not a network'),
    'text.safetensors': Buffer.from('not a network'),
    'empty.png': Buffer.alloc(0),
    'cut.png': picture.subarray(0, picture.length >> 1),
    'text.jpg': Buffer.from('not a picture'),
  };
  for (const [name, bytes] of Object.entries(damaged)) {
    writeFileSync(inFiles(name), bytes);
    await page.click('#clear');
    await drop(page, [inFiles(name)]);
    const [said] = await problems(page, 1);
    assert.ok(said.startsWith(`${name}: `) && said.length > name.length + 12, said);
    assert.doesNotMatch(said, /defect|unreachable|undefined|RuntimeError/);
    console.log(`# ${said}`);
  }
  await drop(page, [networks[0], pictures[0]].map(inFiles));
  const found = await logitsOf(page, pictures[0]);
  assert.deepEqual(bits(found.dsconv), bits(expected[networks[0]][pictures[0]]));
}));

test('a worker that fails for good is replaced', () => onPage('', async (page) => {
  await drop(page, [networks[0], pictures[0]].map(inFiles));
  await logitsOf(page, pictures[0]);
  await page.workers()[0].evaluate(async () => {
    const { Model } = await import(new URL('dsconv/index.js', location));
    Model.prototype.run = () => { throw new WebAssembly.RuntimeError('unreachable'); };
  });
  await drop(page, [inFiles(pictures[1])]);
  assert.match((await problems(page, 1))[0], /there is not enough memory, or there is a defect in dsconv: unreachable/);
  await page.click('#clear');
  await drop(page, [inFiles(pictures[0])]);
  const found = await logitsOf(page, pictures[0]);
  assert.deepEqual(bits(found.dsconv), bits(expected[networks[0]][pictures[0]]));
  assert.deepEqual(await problems(page, 0), []);
}));

test('the page does not freeze while pictures are run', () => onPage('', async (page) => {
  await page.evaluate(() => {
    window.longest = 0;
    let last = performance.now();
    const tick = () => {
      window.longest = Math.max(window.longest, performance.now() - last);
      last = performance.now();
      setTimeout(tick, 5);
    };
    tick();
  });
  for (let i = 0; i < 3; i += 1) await drop(page, pictures.map(inFiles));
  await logitsOf(page, pictures.at(-1), 3);
  const longest = await page.evaluate(() => window.longest);
  console.log(`# the page waited ${longest.toFixed(0)} ms at most`);
  assert.ok(longest < 500, `${longest} ms`);
}));

test('the camera is classified frame after frame', () => onPage('', async (page) => {
  await page.click('#camera');
  await page.waitForFunction(() => document.querySelector('#results > li video') && document.querySelector('#results > li .dsconv .classes li'));
  const first = await page.$eval('#results > li .dsconv', (column) => column.textContent);
  await page.waitForFunction((first) => document.querySelector('#results > li .dsconv').textContent !== first, {}, first);
  await page.click('#camera');
  assert.equal(await page.$eval('#camera', (button) => button.textContent), 'Start the camera');
  assert.deepEqual(await problems(page, 0), []);
}));

test('it is usable by keyboard', () => onPage('', async (page) => {
  const seen = [];
  for (let i = 0; i < 6; i += 1) {
    await page.keyboard.press('Tab');
    seen.push(await page.evaluate(() => document.activeElement.id || document.activeElement.title));
  }
  assert.deepEqual(seen.slice(0, 3), ['files', 'camera', 'clear']);
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.querySelectorAll('#results > li').length === 2);
}));

for (const scheme of ['light', 'dark']) {
  for (const [device, viewport] of [['phone', { width: 360, height: 740, hasTouch: true, isMobile: true }], ['desktop', { width: 1100, height: 900 }]]) {
    test(`it is readable: ${device}, ${scheme}`, () => onPage('', async (page) => {
      await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
      await page.screenshot({ path: join(folder, 'shots', `${device}-${scheme}.png`), fullPage: true });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${wide} pixels too wide`);
      // The page lets no foreign script in; the inspector does.
      await page.evaluate(readFileSync(load.resolve('axe-core/axe.min.js'), 'utf8'));
      const { violations } = await page.evaluate(() => axe.run());
      const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
      assert.deepEqual(serious.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), []);
    }, viewport));
  }
}

test('the npm package works in Node, and its types fit', () => {
  const script = `
    import { load, Model, Picture, top } from 'dsconv-web';
    import { readFileSync } from 'node:fs';
    await load();
    const [files, network, ...pictures] = process.argv.slice(2);
    const model = new Model(readFileSync(files + network));
    const all = pictures.map((name) => [...model.run(model.input(Picture.decode(readFileSync(files + name))))]);
    let said = '';
    try { new Model(new Uint8Array(70)); } catch (error) { said = error.message; }
    console.log(JSON.stringify({ all, said, best: top(model, Float32Array.from(all[0]))[0].name, kernel: model.kernel }));`;
  writeFileSync(join(folder, 'use.mjs'), script);
  const run = (...command) => execFileSync(process.execPath, command, { cwd: folder, encoding: 'utf8' });
  const { all, said, best, kernel } = JSON.parse(run('use.mjs', `${folder}/files/`, networks[0], ...pictures));
  pictures.forEach((name, i) => assert.deepEqual(bits(all[i]), bits(expected[networks[0]][name]), name));
  assert.equal(kernel, 'simd128');
  assert.ok(said.length > 10 && best.length > 2, said);
  writeFileSync(join(folder, 'use.mts'), `
    import { load, Model, Picture, top, type Class } from 'dsconv-web';
    await load({ simd: true });
    const model: Model = new Model(new Uint8Array());
    const best: Class = top(model, model.run(model.input(Picture.decode(new Uint8Array()))), 1)[0];
    const text: string = best.name ?? String(best.probability);
    // @ts-expect-error: it is a number
    const wrong: string = model.outputs;`);
  run('node_modules/typescript/bin/tsc', '--noEmit', '--strict', '--target', 'esnext', '--module', 'nodenext', 'use.mts');
});
