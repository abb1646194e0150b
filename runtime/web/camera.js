// A camera's card: its picture, streamed or loaded one by one, and beside it what the tasks say.

import { ago, count, drop, find, fixed, make, numbers, percent, text } from './dom.js';

const STREAM_RETRY_MS = 10000;

function picture(className, alt) {
  const image = new Image();
  Object.assign(image, { className, alt });
  return image;
}

// Load a picture beside the page, and put it in once it is whole: no flicker, and no broken one.
function refresh(holder, selector, address, version, alt) {
  if (holder.loading || holder.shown === version) return;
  holder.loading = true;
  const old = holder.node.querySelector(selector), next = picture(selector.slice(1), alt);
  // Where a stream has taken the place of the old one meanwhile, this does nothing.
  next.onload = () => { holder.loading = false; holder.shown = version; old.replaceWith(next); };
  next.onerror = () => { holder.loading = false; };
  next.src = `${address}?v=${version}`;
}

export class Camera {
  constructor(data, observer) {
    this.path = data.path;
    this.node = make('camera', find('cameras'));
    this.still = { node: this.node };
    this.answers = new Map();
    this.visible = false;
    this.streams = false;
    this.retryAt = 0;
    text(this.node.querySelector('.name'), data.name);
    this.alt = `picture of ${data.name}`;
    observer.observe(this.node);
  }

  stream(wanted) {
    if (wanted === this.streams) return;
    this.streams = wanted;
    const old = this.node.querySelector('.live');
    if (!wanted) { this.freeze(old); return; }
    const live = picture('live', this.alt);
    live.onerror = () => { this.streams = false; this.retryAt = Date.now() + STREAM_RETRY_MS; this.freeze(live); };
    live.src = `stream/${this.path}?v=${Date.now()}`;
    old.replaceWith(live);
  }

  // The last picture of a stream stays; an image without an address closes its connection.
  freeze(image) {
    const still = document.createElement('canvas');
    Object.assign(still, { className: 'live', width: image.naturalWidth, height: image.naturalHeight });
    if (image.naturalWidth) still.getContext('2d').drawImage(image, 0, 0);
    image.onerror = null;
    image.replaceWith(still);
    image.removeAttribute('src');
    this.still.shown = undefined;
  }

  show(data) {
    numbers(this.node.querySelector('.numbers'), [
      ['frames/s', data.fps === null ? null : fixed(data.fps, 1)],
      ['age', this.age === undefined || this.age === null ? null : `${Math.round(this.age)} ms`],
      ['dropped', count(data.dropped)],
      ['reconnects', data.reconnects === null ? null : count(data.reconnects)],
      ['seen', share(data.seen) < 0.995 ? percent(share(data.seen)) : null],
    ]);
    const silent = this.node.querySelector('.silent');
    silent.hidden = data.silent_s === null;
    this.node.classList.toggle('quiet', data.silent_s !== null);
    if (data.silent_s !== null) text(silent, `silent for ${ago(data.silent_s)}`);
    const trouble = this.node.querySelector('.trouble');
    trouble.hidden = !data.trouble;
    text(trouble, data.trouble);
    if (data.size_hw) this.frame(data.size_hw, data.seen);
    if (this.visible && !this.streams && data.size_hw) this.refresh(data.frames);
    const parent = this.node.querySelector('.answers');
    for (const answer of data.answers) {
      if (!this.answers.has(answer.task)) this.answers.set(answer.task, { node: make('answer', parent) });
      this.answer(this.answers.get(answer.task), answer, data.frames);
    }
    drop(this.answers, data.answers.map((answer) => answer.task));
  }

  // Shade what the tasks do not see. A picture whose shape is limited has bars above or beside it.
  frame(sizeHw, seen) {
    const [height, width] = sizeHw, own = width / height, shown = ratio(sizeHw);
    this.node.querySelector('.picture').style.aspectRatio = String(shown);
    const part = this.node.querySelector('.seen-part');
    part.hidden = share(seen) >= 0.995;
    if (part.hidden) return;
    const wide = Math.min(own / shown, 1), high = Math.min(shown / own, 1);
    const [left, top, right, bottom] = seen;
    const edges = [[top, high], [1 - right, wide], [1 - bottom, high], [left, wide]];
    part.style.inset = edges.map(([edge, size]) => `${(100 * ((1 - size) / 2 + edge * size)).toFixed(2)}%`).join(' ');
  }

  refresh(version) {
    refresh(this.still, '.live', `picture/${this.path}`, version, this.alt);
  }

  answer(holder, data, version) {
    const { node } = holder;
    text(node.querySelector('.task'), data.task);
    text(node.querySelector('.label'), data.degraded ? 'degraded' : data.label);
    const degraded = node.querySelector('.degraded');
    degraded.hidden = !data.degraded;
    text(degraded, data.degraded ? `not finite: ${data.degraded}; no answer` : '');
    node.classList.toggle('bad', Boolean(data.degraded));
    const bars = node.querySelector('.bars');
    while (bars.children.length > data.top.length) bars.lastElementChild.remove();
    data.top.forEach(({ label, score }, index) => {
      const bar = bars.children[index] ?? make('bar', bars);
      text(bar.querySelector('.class'), label);
      bar.querySelector('.class').title = label;
      bar.querySelector('.fill').style.width = percent(score);
      text(bar.querySelector('.share'), percent(score));
    });
    const figure = node.querySelector('.seen');
    figure.hidden = !data.canvas;
    if (!data.canvas || !this.visible) return;
    refresh(holder, '.canvas', `canvas/${this.path}/${data.path}`, version, `what the ViT sees for ${data.task}`);
  }
}

// Neither a needle nor a ribbon, whatever the camera is.
function ratio([height, width]) {
  return Math.min(Math.max(width / height, 1), 2.4);
}

// Share of the picture's area that the tasks see.
function share(seen) {
  return seen ? (seen[2] - seen[0]) * (seen[3] - seen[1]) : 1;
}
