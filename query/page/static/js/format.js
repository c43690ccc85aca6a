/** Numbers and times as people read them. */

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });

/** A metric's value: six significant digits, an exponent where it would be long. */
export function value(number) {
  if (number === null || number === undefined) return "–";
  if (Number.isNaN(number)) return "NaN";
  if (!Number.isFinite(number)) return number > 0 ? "+∞" : "−∞";
  if (number === 0) return "0";
  const size = Math.abs(number);
  const text = size >= 1e6 || size < 1e-3 ? number.toExponential(4) : number.toPrecision(6);
  return text
    .replace(/(\.\d*?)0+(?=e|$)/, "$1")
    .replace(/\.(?=e|$)/, "")
    .replace("e+", "e")
    .replaceAll("-", "−");
}

/** A value at an axis. */
export function tick(number) {
  if (number === null) return "";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) {
    return number
      .toExponential(2)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e")
      .replaceAll("-", "−");
  }
  if (size >= 1e4) return COMPACT.format(number).replaceAll("-", "−");
  return String(Number(number.toPrecision(6))).replaceAll("-", "−");
}

/** Seconds as a duration: 0.5 s, 90 s, 12m 30s, 3h 20m, 2d 4h. */
export function duration(seconds) {
  if (seconds < 0) return `−${duration(-seconds)}`;
  if (seconds < 120) return `${Number(seconds.toFixed(seconds < 10 ? 2 : 0))}s`;
  const pair = (big, bigName, small, smallName) => `${big}${bigName}${small ? ` ${small}${smallName}` : ""}`;
  const whole = Math.round(seconds);
  if (whole < 7200) return pair(Math.floor(whole / 60), "m", whole % 60, "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 2880) return pair(Math.floor(minutes / 60), "h", minutes % 60, "m");
  const hours = Math.round(seconds / 3600);
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** Milliseconds since 1970 as local date and time. */
export function moment(milliseconds) {
  const date = new Date(milliseconds);
  if (Number.isNaN(date.getTime())) return String(milliseconds);
  const two = (n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A place on the x axis, in words. */
export function place(x, axis) {
  if (axis === "step") return `step ${Math.round(x).toLocaleString("en")}`;
  return axis === "time" ? moment(x) : duration(x);
}

/** How long ago: 5 min, 3 h, 2 d. */
export function ago(milliseconds, now) {
  const minutes = Math.max(0, (now - milliseconds) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ago` : `${Math.floor(minutes / 1440)} d ago`;
}
