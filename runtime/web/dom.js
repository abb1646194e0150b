// Parts of the document, filled with text.

export const find = (id) => document.getElementById(id);

export function make(template, parent) {
  const node = find(template).content.firstElementChild.cloneNode(true);
  parent.append(node);
  return node;
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// Pairs of name and value; what has no value is left out.
export function numbers(list, pairs) {
  const items = pairs.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => {
    const item = document.createElement('div'), term = document.createElement('dt'), detail = document.createElement('dd');
    term.textContent = name;
    detail.textContent = value;
    item.append(term, detail);
    return item;
  });
  list.replaceChildren(...items);
}

export const percent = (share) => `${(100 * share).toFixed(1)}%`;
export const count = (value) => value.toLocaleString('en');
export const fixed = (value, digits) => (value === null ? '–' : value.toFixed(digits));

export function ago(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  return seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`;
}

export function drop(map, names) {
  for (const [name, holder] of map) {
    if (!names.includes(name)) { holder.node.remove(); map.delete(name); }
  }
}
