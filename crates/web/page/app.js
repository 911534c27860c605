// The page: takes files and the camera, asks the worker, shows what comes back. It computes nothing itself.

const find = (selector, within = document) => within.querySelector(selector);
const SLOTS = { float: 'FP32', dsconv: 'DSConv' };
const MOST_BYTES = 2 ** 30;
const MOST_RESULTS = 50;

/** Makes an element; text is never read as HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const number = (value, digits = 0) => value.toLocaleString('en', { maximumFractionDigits: digits, minimumFractionDigits: digits });
const sized = (bytes) => (bytes < 1e6 ? `${number(bytes / 1e3, 1)} kB` : `${number(bytes / 1e6, 2)} MB`);
const ms = (value) => `${value < 10 ? value.toFixed(2) : value.toFixed(1)} ms`;

function say(text) {
  find('#status').textContent = text;
}

function complain(text) {
  const problem = find('#problem').content.firstElementChild.cloneNode(true);
  find('span', problem).textContent = text;
  find('button', problem).addEventListener('click', () => problem.remove());
  find('#problems').append(problem);
  while (find('#problems').children.length > 5) find('#problems').firstElementChild.remove();
}

// The worker ----------------------------------------------------------------------------------------

let worker;
let waiting = new Map();
let lastId = 0;
/** The networks by slot, `{ file, info }`: a new worker gets them again. */
const networks = new Map();

function startWorker() {
  worker = new Worker(`worker.js${location.search}`, { type: 'module' });
  worker.addEventListener('message', ({ data: { id, result, error, fatal } }) => {
    const { resolve, reject } = waiting.get(id) ?? {};
    waiting.delete(id);
    if (fatal) restartWorker();
    if (error === undefined) resolve?.(result);
    else reject?.(new Error(error));
  });
  worker.addEventListener('error', (event) => {
    restartWorker(event.message || 'the engine cannot be loaded', false);
  });
}

/** Ends a worker whose memory may be in any state; what it still had to do fails. */
function restartWorker(why = 'the engine was started again', again = true) {
  worker.terminate();
  const failed = waiting;
  waiting = new Map();
  for (const { reject } of failed.values()) reject(new Error(why));
  if (!again) return;
  startWorker();
  for (const { file } of networks.values()) loadNetwork(file).catch((error) => complain(`${file.name}: ${error.message}`));
}

function ask(does, what, transfer = []) {
  lastId += 1;
  const id = lastId;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, does, ...what }, transfer);
  });
}

// Networks ------------------------------------------------------------------------------------------

async function loadNetwork(file) {
  const bytes = await file.arrayBuffer();
  const { slot, info, removed } = await ask('load', { name: file.name, bytes }, [bytes]);
  networks.set(slot, { file, info });
  if (removed) {
    networks.delete(removed);
    say(`${SLOTS[removed]}: put away, since its input or its number of outputs is not that of ${file.name}.`);
  }
  showNetworks();
}

function showNetworks() {
  for (const slot of Object.keys(SLOTS)) {
    const info = networks.get(slot)?.info;
    const place = find(`#${slot} .info`);
    if (!info) {
      const how = slot === 'float' ? 'dsconv export MODEL -o float.safetensors' : 'dsconv quantize MODEL -o model.dsc';
      place.replaceChildren(element('p', {}, 'None. Drop one: ', element('code', { textContent: how })));
      continue;
    }
    const other = networks.get(slot === 'float' ? 'dsconv' : 'float')?.info;
    const ratio = slot === 'dsconv' && other ? `, ${number(other.bytes / info.bytes, 1)}x smaller` : '';
    const bits = info.weightBits === undefined ? '32-bit floats' : `${info.weightBits}-bit weights, ${info.activationBits ? `${info.activationBits}-bit activations` : 'activations in floats'} in most layers`;
    const rows = [
      ['Network', `${info.name}, ${number(info.parameters)} parameters`],
      ['File', `${info.file}, ${sized(info.bytes)}${ratio}`],
      ['Numbers', bits],
      ['Input', info.shape.join(' x ')],
      ['Classes', info.classes.length ? number(info.classes.length) : `${number(info.outputs)} outputs without names`],
      ['Kernel', `${info.kernel}, loaded in ${ms(info.loading)}`],
    ];
    if (info.verified) rows.push(['Checked', 'its stored test input gives the stored logits, to the bit']);
    const list = element('dl');
    for (const [term, text] of rows) list.append(element('dt', { textContent: term }), element('dd', { textContent: text }));
    place.replaceChildren(list);
  }
}

// Results -------------------------------------------------------------------------------------------

/** Writes an f32 with the fewest digits that give it back. */
function float(value) {
  for (let digits = 1; digits < 9; digits += 1) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(Number(value.toPrecision(9)));
}

function column(slot, result) {
  const title = element('h3', {}, element('span', { className: 'swatch', ariaHidden: 'true' }), SLOTS[slot]);
  title.append(element('span', { className: 'time', textContent: ms(result.ms) }));
  const classes = element('ol', { className: 'classes' });
  for (const { index, name, probability } of result.top) {
    const isProbability = probability >= 0 && probability <= 1;
    const bar = element('i');
    bar.style.width = `${100 * Math.min(Math.max(probability, 0), 1)}%`;
    classes.append(element(
      'li',
      {},
      element('span', { textContent: name ?? `class ${index}` }),
      element('span', { textContent: isProbability ? `${(100 * probability).toFixed(1)} %` : float(probability) }),
      element('div', { className: 'bar', ariaHidden: 'true' }, bar),
    ));
  }
  const logits = element('details', {}, element('summary', { textContent: 'Logits' }));
  logits.append(element('code', { className: 'logits', textContent: [...result.logits].map(float).join(' ') }));
  return element('div', { className: slot }, title, classes, logits);
}

function showResult(card, { width, height, decoding, results }) {
  const columns = Object.keys(SLOTS).filter((slot) => results[slot]).map((slot) => column(slot, results[slot]));
  find('.pair', card).replaceChildren(...columns);
  const [a, b] = [results.float?.top[0], results.dsconv?.top[0]];
  find('.verdict', card).textContent = a && b ? (a.index === b.index ? '✓ same class' : '≠ other class') : '';
  const preparing = Object.values(results).map((result) => result.preparing);
  find('.soft', card).textContent = `${width}x${height}, decoded in ${ms(decoding)}, resized in ${ms(Math.max(0, ...preparing))}`;
}

function addCard(media, name) {
  const caption = element('figcaption', {}, element('div', { textContent: name }), element('div', { className: 'soft' }), element('div', { className: 'verdict' }));
  const card = element('li', {}, element('figure', {}, media, caption), element('div', { className: 'pair' }));
  find('#results').prepend(card);
  for (const old of [...find('#results').children].slice(MOST_RESULTS)) old.remove();
  return card;
}

async function classify(file) {
  const bytes = await file.arrayBuffer();
  const result = await ask('classify', { bytes }, [bytes]);
  const image = element('img', { alt: '', src: URL.createObjectURL(file) });
  // Browsers show fewer formats, or more; the result stands without.
  image.addEventListener('error', () => image.remove());
  const card = addCard(image, file.name);
  card.dataset.file = file.name;
  showResult(card, result);
}

// Files ---------------------------------------------------------------------------------------------

const isNetwork = (file) => /\.(dsc|safetensors)$/i.test(file.name);

/** One file after the other: networks first, so that pictures dropped with them see them. */
let queue = Promise.resolve();
function take(files) {
  const sorted = [...files].sort((a, b) => isNetwork(b) - isNetwork(a));
  for (const file of sorted) queue = queue.then(() => takeOne(file));
  return queue;
}

async function takeOne(file) {
  say(`${file.name}…`);
  try {
    if (file.size > MOST_BYTES) throw new Error(`${sized(file.size)}: files of ${sized(MOST_BYTES)} at most are read`);
    await (isNetwork(file) ? loadNetwork(file) : classify(file));
    say(`${file.name}: done.`);
  } catch (error) {
    complain(`${file.name}: ${error.message}`);
    say('');
  }
}

/** Fetches a file of this page. */
async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: the server answered ${answer.status}`);
  return new File([await answer.blob()], path.split('/').pop());
}

find('#files').addEventListener('change', ({ target }) => {
  take(target.files);
  target.value = '';
});
find('#clear').addEventListener('click', () => {
  find('#results').replaceChildren();
  find('#problems').replaceChildren();
  say('Cleared.');
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dragging');
});
addEventListener('dragleave', () => document.body.classList.remove('dragging'));
addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dragging');
  take(event.dataTransfer.files);
});

// The camera ----------------------------------------------------------------------------------------

let stream;

async function startCamera() {
  if (!navigator.mediaDevices) throw new Error('there is none for a page that is neither https nor localhost');
  stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 640 } } });
  const video = element('video', { muted: true, playsInline: true, srcObject: stream });
  const card = addCard(video, 'Camera');
  await video.play();
  watch(video, card, stream).catch((error) => {
    complain(`camera: ${error.message}`);
    stopCamera();
  });
}

/** Classifies frame after frame, each when the last one is done. */
async function watch(video, card, ours) {
  const canvas = element('canvas');
  const context = canvas.getContext('2d', { willReadFrequently: true });
  while (stream === ours && card.isConnected) {
    await new Promise(requestAnimationFrame);
    const [width, height] = [video.videoWidth, video.videoHeight];
    if (!width) continue;
    Object.assign(canvas, { width, height });
    context.drawImage(video, 0, 0);
    const rgba = context.getImageData(0, 0, width, height).data.buffer;
    showResult(card, await ask('classify', { rgba, width, height, once: true }, [rgba]));
  }
  if (stream === ours) stopCamera();
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = undefined;
  showCamera();
}

function showCamera() {
  const button = find('#camera');
  button.textContent = stream ? 'Stop the camera' : 'Start the camera';
  button.ariaPressed = String(Boolean(stream));
}

find('#camera').addEventListener('click', async () => {
  if (stream) {
    stopCamera();
    return;
  }
  try {
    await startCamera();
  } catch (error) {
    complain(`camera: ${error.message}`);
  }
  showCamera();
});

// The start -----------------------------------------------------------------------------------------

async function showWire() {
  const own = performance.getEntriesByType('resource').map(({ name, encodedBodySize }) => ({ name, bytes: encodedBodySize }));
  const [page] = performance.getEntriesByType('navigation');
  const all = new Map([{ name: page.name, bytes: page.encodedBodySize }, ...own, ...await ask('fetched', {})].map((entry) => [entry.name, entry.bytes]));
  const rows = [...all].map(([name, bytes]) => [decodeURI(new URL(name).pathname), bytes]).sort((a, b) => b[1] - a[1]);
  const pictures = rows.filter(([name]) => name.includes('/pictures/'));
  const others = rows.filter(([name]) => !name.includes('/pictures/'));
  others.push([`${pictures.length} pictures to try`, pictures.reduce((sum, [, bytes]) => sum + bytes, 0)]);
  find('#wire tbody').replaceChildren(...others.map(([name, bytes]) => element(
    'tr',
    {},
    element('td', { textContent: name }),
    element('td', { className: 'number', textContent: number(bytes) }),
  )));
}

async function start() {
  startWorker();
  const { networks: paths, pictures } = await (await fetch('contents.json')).json();
  for (const path of pictures) {
    const name = path.split('/').pop().replace(/\.\w+$/, '').replaceAll('_', ' ');
    const button = element('button', { type: 'button', title: name }, element('img', { src: path, alt: name }));
    button.addEventListener('click', async () => take([await fetched(path)]));
    find('#samples').append(button);
  }
  for (const path of paths) {
    const file = await fetched(path);
    await loadNetwork(file);
  }
  if (pictures.length) await take([await fetched(pictures[0])]);
  await showWire();
  say('Ready.');
  document.body.dataset.ready = 'true';
}

start().catch((error) => {
  complain(error.message);
  say('');
});
