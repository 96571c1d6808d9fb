/* Event ids, `<milliseconds>-<sequence>`: the positions of a stream. No DOM here. */

/** Whether an id comes after another. */
export function isAfter(id, other) {
  const [a, b] = [id.split("-"), other.split("-")];
  return a[0] === b[0] ? Number(a[1]) > Number(b[1]) : Number(a[0]) > Number(b[0]);
}

/** The older of two ids. */
export function older(a, b) {
  return isAfter(a, b) ? b : a;
}
