/* How numbers and times are written, short enough for a dense table. No DOM here. */

const WHOLE = new Intl.NumberFormat("en-US");

/** 1,234,567 */
export function count(number) {
  return WHOLE.format(number);
}

/** 950, 12.4k, 3.1M */
export function compact(number) {
  if (number < 10_000) return count(number);
  const [value, unit] = number < 999_500 ? [number / 1e3, "k"] : number < 999_500_000 ? [number / 1e6, "M"] : [number / 1e9, "G"];
  return `${value < 100 ? value.toFixed(1) : Math.round(value)}${unit}`;
}

/** 512 B, 1.4 MB */
export function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${unit && number < 100 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

/** 40ms, 0.4s, 12s, 3m 04s, 2h 10m, 5d 3h */
export function duration(ms) {
  if (ms < 0) ms = 0;
  if (ms < 95) return `${Math.round(ms)}ms`;
  if (ms < 950) return `${(ms / 1000).toFixed(1)}s`;
  const s = Math.round(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two(Math.floor(s / 60) % 60)}m`;
  return `${Math.floor(s / 86_400)}d ${Math.floor(s / 3600) % 24}h`;
}

/** now, 40s, 12m, 3h, 5d: how long ago, in one unit */
export function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 1) return "now";
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}

/** $12.30, $0.07, $0.0042 */
export function money(dollars) {
  if (dollars >= 1000) return `$${count(Math.round(dollars))}`;
  if (dollars === 0 || dollars >= 0.01) return `$${dollars.toFixed(2)}`;
  return `$${dollars.toFixed(4)}`;
}

const two = (number) => String(number).padStart(2, "0");

/** 14:03:07, in the reader's own zone */
export function clock(iso) {
  const time = new Date(iso);
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

/** 14:03:07 today, else 2026-01-31 14:03:07, in the reader's own zone */
export function moment(iso, now) {
  const date = (time) => `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  const day = date(new Date(iso));
  return day === date(new Date(now)) ? clock(iso) : `${day} ${clock(iso)}`;
}
