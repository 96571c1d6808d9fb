/* Addresses within the page: `#/path/of/a/view?name=value`. No DOM here. */

/**
 * What an address names.
 *
 * @param {string} hash
 * @param {{name: string, path: string}[]} views whose paths have segments, `:name` for one of any text
 * @returns {{view: object, values: Object<string, string>, query: URLSearchParams}|null}
 */
export function parse(hash, views) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split(/\?(.*)/s, 2);
  const segments = path.split("/").filter(Boolean).map(decode);
  for (const view of views) {
    const wanted = view.path.split("/").filter(Boolean);
    if (wanted.length !== segments.length) continue;
    if (!wanted.every((name, i) => name.startsWith(":") || name === segments[i])) continue;
    const values = Object.fromEntries(wanted.map((name, i) => [name, segments[i]]).filter(([name]) => name.startsWith(":")).map(([name, value]) => [name.slice(1), value]));
    return { view, values, query: new URLSearchParams(query) };
  }
  return null;
}

/** The address of a path given as segments, with parameters; those that are null or empty are left out. */
export function format(segments, query = {}) {
  const given = Object.entries(query instanceof URLSearchParams ? Object.fromEntries(query) : query).filter(([, value]) => value != null && value !== "");
  const search = new URLSearchParams(given).toString();
  return `#/${segments.map(encodeURIComponent).join("/")}${search && `?${search}`}`;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
