// Lines over time, drawn as SVG. Colours and fonts are the style sheet's.

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 170, LEFT = 40, RIGHT = 10, TOP = 8, BOTTOM = 20, COLOURS = 6;

function shape(parent, name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
}

// The next 1, 2 or 5 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999);
}

// Three digits, with a true minus.
function number(value) {
  const size = Math.abs(value), digits = size < 0.1 ? 3 : size < 10 ? 2 : size < 100 ? 1 : 0;
  return value.toLocaleString('en', { maximumFractionDigits: digits }).replace('-', '−');
}

export class Plot {
  constructor(parent, { title, unit, least, read }) {
    this.unit = unit;
    this.least = least; // the smallest range that is worth a whole axis
    this.read = read; // gives the [name, value] pairs of a row
    const part = document.getElementById('plot').content.cloneNode(true);
    this.area = part.querySelector('.area');
    this.legend = part.querySelector('.legend');
    const caption = part.querySelector('figcaption');
    const small = document.createElement('small');
    small.textContent = unit;
    caption.append(title, small);
    parent.append(part);
  }

  draw(rows, now, seconds) {
    const names = [], lines = new Map();
    for (const row of rows) {
      for (const [name, value] of this.read(row)) {
        if (!lines.has(name)) { names.push(name); lines.set(name, []); }
        lines.get(name).push([row.at_s, value]);
      }
    }
    const width = Math.max(this.area.clientWidth, 200);
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    const values = [...lines.values()].flat().map(([, value]) => value).filter((value) => value !== null);
    const y = this.axis(svg, width, values);
    const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - Math.min((now - at) / seconds, 1));
    for (const [ago, anchor] of [[seconds, 'start'], [seconds / 2, 'middle'], [0, 'end']]) {
      const text = ago === 0 ? 'now' : ago < 120 ? `−${Math.round(ago)} s` : `−${number(ago / 60)} min`;
      shape(svg, 'text', { x: x(now - ago), y: HEIGHT - 5, 'text-anchor': anchor }, text);
    }
    names.forEach((name, index) => {
      const d = path(lines.get(name), x, y);
      if (d) shape(svg, 'path', { class: `curve c${index % COLOURS}`, d });
    });
    this.area.replaceChildren(svg);
    this.explain(names, lines);
  }

  axis(svg, width, values) {
    const most = Math.max(...values, 0), low = Math.min(...values, 0);
    const step = nice(Math.max(most - low, this.least) / 4);
    const bottom = Math.floor(low / step) * step;
    const top = Math.max(Math.ceil(most / step) * step, bottom + Math.ceil(this.least / step) * step);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (top - value) / (top - bottom);
    for (let line = 0; line <= Math.round((top - bottom) / step); line += 1) {
      const value = bottom + line * step;
      shape(svg, 'line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) });
      shape(svg, 'text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, number(value));
    }
    return y;
  }

  explain(names, lines) {
    const items = names.map((name, index) => {
      const item = document.createElement('li'), colour = document.createElement('i'), last = document.createElement('b');
      const value = lines.get(name).at(-1)[1];
      colour.className = `c${index % COLOURS}`;
      last.textContent = value === null ? '–' : number(value);
      item.append(colour, name, last);
      return item;
    });
    if (!items.length) {
      const item = document.createElement('li');
      item.textContent = 'nothing to show yet';
      items.push(item);
    }
    this.legend.replaceChildren(...items);
  }
}

// Seconds without a value are gaps, not zero; one alone is a dot.
function path(points, x, y) {
  let d = '', open = false;
  points.forEach(([at, value], index) => {
    if (value === null) { open = false; return; }
    const alone = !open && (points[index + 1]?.[1] ?? null) === null;
    d += `${open ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value).toFixed(1)}${alone ? 'h.1' : ''}`;
    open = true;
  });
  return d;
}
