// The live page: asks for the state twice a second, and writes it into the document. Names that come from outside are
// only ever set as text.

import { Camera } from './camera.js';
import { ago, count, drop, find, fixed, make, numbers, text } from './dom.js';
import { Plot } from './plot.js';

const POLL_MS = 500, TIMEOUT_MS = 4000, SECONDS = 300, MOST_LARGE = 6;
let mostStreams = 3; // a browser opens six connections to a server; the others are for pictures and numbers

const cards = new Map(), tasks = new Map();
let rows = [], epoch = '', lostAt = null, busy = false, timer = 0;

class Task {
  constructor(data) {
    this.name = data.name;
    this.node = make('task', find('tasks'));
    this.select = this.node.querySelector('select');
    this.button = this.node.querySelector('button');
    text(this.node.querySelector('.name'), data.name);
    this.select.setAttribute('aria-label', `bundle for ${data.name}`);
    this.node.addEventListener('submit', (event) => { event.preventDefault(); this.swap(); });
  }

  async swap() {
    const bundle = this.select.value;
    this.pending = true;
    this.say('loading', `loading ${bundle}…`);
    try {
      const body = JSON.stringify({ task: this.name, bundle });
      const answer = await fetch('api/swap', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
      this.say(answer.ok ? 'done' : 'failed', (await answer.text()).trim());
    } catch {
      this.say('failed', 'the server did not answer');
    }
    this.pending = false;
  }

  say(state, line) {
    const result = this.node.querySelector('.result');
    result.hidden = false;
    result.className = `result ${state}`;
    text(result, line);
    this.button.disabled = this.select.disabled = state === 'loading';
  }

  show(data, bundles, drift) {
    text(this.node.querySelector('.file'), data.bundle);
    text(this.node.querySelector('.digest'), data.digest);
    numbers(this.node.querySelector('.numbers'), [
      ['swaps', count(data.swaps)],
      ['strange frames', drift && drift.strange !== null ? percent(drift) : null],
      ['entropy z', drift ? fixed(drift.entropy_z, 2) : null],
      ['usage divergence', drift ? `${fixed(drift.usage_divergence, 3)} bit` : null],
    ]);
    this.node.querySelector('.swap').hidden = !bundles;
    const key = JSON.stringify(bundles);
    if (bundles && this.offered !== key) {
      this.offered = key;
      const chosen = this.select.value;
      this.select.replaceChildren(...bundles.map((bundle) => new Option(bundle, bundle)));
      if (bundles.includes(chosen)) this.select.value = chosen;
    }
    // What somebody else swapped, elsewhere, is news here too; what this page was told itself stands already.
    const last = JSON.stringify(data.last);
    if (data.last && !this.pending && this.last !== last) {
      const { state, bundle, error } = data.last;
      this.say(state, { loading: `loading ${bundle}…`, done: `${data.name} is ${bundle} now`, failed: error }[state]);
    }
    if (!this.pending) this.last = last;
    if (!this.pending && data.last?.state !== 'loading') {
      this.button.disabled = this.select.disabled = !bundles?.length;
    }
  }
}

const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    for (const card of cards.values()) if (card.node === entry.target) card.visible = entry.isIntersecting;
  }
}, { rootMargin: '100px' });

const percent = (drift) => `${fixed(100 * drift.strange, 0)} %${drift.alarm ? ': unlike the training data' : ''}`;
const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : null);

const plots = [
  { title: 'Latency by stage', unit: 'ms, mean of each second', least: 1, read: (row) => Object.entries(row.stages_ms) },
  { title: 'Frame age', unit: 'ms, from the capture to the answer', least: 10,
    read: (row) => Object.entries(row.cameras).map(([name, camera]) => [name, camera.age_ms]) },
  { title: 'Drift: strange frames', unit: 'share of the last frames that are unlike the training data', least: 0.3,
    read: (row) => Object.entries(row.drift).map(([name, drift]) => [name, drift?.strange ?? null]) },
  { title: 'Drift: library usage', unit: 'bit, divergence from training', least: 0.1,
    read: (row) => Object.entries(row.drift).map(([name, drift]) => [name, drift?.usage_divergence ?? null]) },
].map((options) => new Plot(find('plots'), options));

function draw(now) {
  const first = rows.length ? rows[0].at_s : now;
  const seconds = [60, 120].find((each) => now - first <= each) ?? SECONDS;
  text(find('span'), seconds === 60 ? 'last minute' : `last ${seconds / 60} minutes`);
  for (const plot of plots) plot.draw(rows.filter((row) => row.at_s >= now - seconds), now, seconds);
}

function show(state) {
  const last = rows.at(-1), newest = rows.findLast((row) => Object.values(row.cameras).some((each) => each.age_ms !== null));
  for (const data of state.cameras) {
    if (!cards.has(data.name)) cards.set(data.name, new Camera(data, observer));
    const card = cards.get(data.name);
    card.age = data.silent_s === null && newest ? own(newest.cameras, data.name)?.age_ms : null;
    card.show(data);
  }
  drop(cards, state.cameras.map((camera) => camera.name));
  for (const data of state.tasks) {
    if (!tasks.has(data.name)) tasks.set(data.name, new Task(data));
    tasks.get(data.name).show(data, state.bundles, last ? own(last.drift, data.name) : null);
  }
  drop(tasks, state.tasks.map((task) => task.name));
  find('empty').hidden = state.cameras.length > 0;
  find('outputs').hidden = !state.sinks.length;
  find('cameras').classList.toggle('compact', state.cameras.length > MOST_LARGE);
  find('sinks').replaceChildren();
  for (const sink of state.sinks) {
    const card = make('sink', find('sinks')), error = card.querySelector('.error');
    text(card.querySelector('.name'), sink.name);
    numbers(card.querySelector('.numbers'), [['sent', count(sink.sent)], ['lost', count(sink.lost)]]);
    error.hidden = !sink.last_error;
    text(error, sink.last_error ? `last error: ${sink.last_error}` : '');
  }
  find('happened').hidden = !state.events.length;
  find('events').replaceChildren(...state.events.map((event) => {
    const line = document.createElement('li'), reason = event.text ? `: ${event.text}` : '';
    text(line, `${event.at} ${event.kind} ${event.subject}: ${event.state}${reason}`);
    return line;
  }));
  const rate = state.cameras.reduce((sum, camera) => sum + (camera.fps ?? 0), 0);
  const many = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;
  text(find('summary'), `${many(cards.size, 'camera')} · ${many(tasks.size, 'task')} · ${rate.toFixed(1)} frames/s`);
  draw(state.now_s);
}

function stream() {
  let free = document.hidden || lostAt !== null ? 0 : mostStreams;
  for (const card of cards.values()) {
    const wanted = free > 0 && card.visible && Date.now() > card.retryAt;
    card.stream(wanted);
    if (wanted) free -= 1;
  }
}

function gone(why) {
  lostAt ??= Date.now();
  text(find('status'), 'no answer');
  find('status').className = 'pill alert';
  for (const card of cards.values()) card.node.classList.add('quiet');
  find('gone').hidden = false;
  text(find('gone'), `${why} for ${ago((Date.now() - lostAt) / 1000)}; trying again.`);
}

function back() {
  lostAt = null;
  find('gone').hidden = true;
  text(find('gone'), '');
  text(find('status'), 'live');
  find('status').className = 'pill good';
}

async function ask() {
  const after = rows.length ? rows.at(-1).row : -1;
  const answer = await fetch(`api/state?after=${after}`, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const state = await answer.json();
  if (epoch && state.epoch !== epoch) {
    // Another run: its rows count from 0 again.
    epoch = '';
    rows = [];
    return ask();
  }
  epoch = state.epoch;
  rows = rows.concat(state.rows).slice(-SECONDS);
  return state;
}

async function poll() {
  try {
    const state = await ask();
    back();
    return state;
  } catch (error) {
    // Too many windows may have taken all connections that the browser allows: this one gives some back.
    if (error.name === 'TimeoutError') mostStreams = Math.floor(mostStreams / 2);
    gone(error.name === 'Error' ? error.message : 'No answer from the server');
    return null;
  }
}

// Without a pause between an answer and the next question a slow link would never be free.
async function run() {
  clearTimeout(timer);
  if (busy || document.hidden) return;
  busy = true;
  const state = await poll();
  busy = false;
  timer = setTimeout(run, POLL_MS);
  if (state) show(state);
  stream();
}

document.addEventListener('visibilitychange', () => { stream(); run(); });
run();
