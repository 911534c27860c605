// Reports in headless Chromium: no word on the console, nothing loaded, no fault that axe-core finds, no line wider than a telephone.
// PAGES is a folder of reports; CHROMIUM the browser. `.ci/demo` makes the pages and runs this.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.DEMO_FOLDER}/`);
const puppeteer = require('puppeteer-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const pages = readdirSync(process.env.PAGES).filter((name) => name.endsWith('.html'));
let browser;

before(async () => {
  browser = await puppeteer.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
});
after(() => browser?.close());

assert(pages.length > 0, 'there are pages');
for (const name of pages) {
  for (const scheme of ['light', 'dark']) {
    for (const width of [375, 1100]) {
      test(`${name}, ${scheme}, ${width} pixels wide`, async () => {
        const page = await browser.newPage();
        const said = [], asked = [];
        page.on('console', (message) => said.push(message.text()));
        page.on('pageerror', (error) => said.push(String(error)));
        page.on('request', (request) => asked.push(request.url()));
        await page.setBypassCSP(true); // for axe, which is put into the page
        await page.setViewport({ width, height: 900 });
        await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: scheme }]);
        await page.goto(pathToFileURL(`${process.env.PAGES}/${name}`).href);
        const foreign = asked.filter((url) => !url.startsWith('file:') && !url.startsWith('data:'));
        assert.deepEqual([said, foreign], [[], []]);
        const [wide, empty] = await page.evaluate(() => [
          document.documentElement.scrollWidth - innerWidth,
          [...document.querySelectorAll('figure.plot')].filter((figure) => !figure.querySelector('svg path, svg polyline, svg rect, svg circle')).length,
        ]);
        assert.deepEqual([wide, empty], [0, 0], 'wider than the window; plots that are empty');
        await page.evaluate(axe);
        const { violations } = await page.evaluate(() => globalThis.axe.run());
        assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes[0].html]), []);
        await page.close();
      });
    }
  }
}
