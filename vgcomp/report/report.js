"use strict";
// The memory timeline: two step curves over one axis, drawn as SVG. Data comes from the page itself.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const host = document.getElementById("timeline");
  const tip = document.getElementById("tip");
  const NS = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 66, right: 16, top: 18, bottom: 34 };
  const HEIGHT = 380;
  const series = ["before", "after"].map((key) => ({ key, ...unpack(data[key]), end: data[key].end }));
  const state = { align: false, weights: data.show_weights, zoom: null, at: null, range: null };

  // Starts, durations and bytes come as plain columns; names and ops as indices into one table.
  function unpack(columns) {
    return {
      start: columns.start, duration: columns.duration, bytes: columns.bytes,
      name: (i) => data.strings[columns.name[i]],
      op: (i) => data.strings[columns.op[i]],
      bound: (i) => data.strings[columns.bound[i]],
    };
  }

  const base = () => (state.weights ? data.weight_bytes : 0);
  const scaleOf = (s) => (state.align ? 1 / (s.end || 1) : 1);
  const fullRange = () => [0, state.align ? 1 : Math.max(...series.map((s) => s.end)) || 1];
  const range = () => state.zoom || fullRange();

  function el(tag, attributes, parent, text) {
    const node = document.createElementNS(NS, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.appendChild(node);
    return node;
  }

  function bytesText(n) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0, value = n;
    while (i + 1 < units.length && Math.abs(value) >= 999.5) { value /= 1024; i += 1; }
    const digits = i === 0 ? 0 : Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0;
    return `${value.toFixed(digits)} ${units[i]}`;
  }

  function timeText(s) {
    const [scale, unit] = s >= 1 ? [1, "s"] : s >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
    const value = s / scale;
    return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
  }

  // Round steps in the unit that is shown, so that the axis reads 0, 2, 4 GiB.
  function ticks(max, count, unit) {
    const raw = max / unit / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= raw) * power * unit;
    return Array.from({ length: Math.floor(max / step + 1e-9) + 1 }, (_, i) => i * step);
  }

  function unitFor(max) {
    let unit = 1;
    while (max / unit >= 1000 && unit < 2 ** 40) unit *= 1024;
    return unit;
  }

  // The last op that starts at or before t; -1 before the first.
  function indexAt(s, t) {
    let low = 0, high = s.start.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (s.start[middle] <= t) low = middle + 1; else high = middle;
    }
    return low - 1;
  }

  function yMax() {
    const values = series.flatMap((s) => (s.bytes.length ? [s.bytes.reduce((a, b) => Math.max(a, b), 0)] : []));
    const top = Math.max(1, ...values) + base();
    // A budget far above everything would flatten the curves: then it is named, not drawn.
    const budget = budgetLevel();
    return Math.max(top, budget !== null && budget < top * 1.6 ? budget : 0) * 1.06;
  }

  function budgetLevel() {
    if (data.budget_bytes === null) return null;
    return state.weights ? data.budget_bytes : data.budget_bytes - data.weight_bytes;
  }

  // One column of pixels shows at most its highest point, so a peak never vanishes.
  function outline(s, x, y, width) {
    const [low, high] = range(), scale = scaleOf(s);
    const columns = new Map();
    for (let i = Math.max(0, indexAt(s, low / scale)); i < s.start.length && s.start[i] * scale <= high; i += 1) {
      const left = Math.max(MARGIN.left, x(s.start[i] * scale));
      const right = Math.min(MARGIN.left + width, x((s.start[i] + s.duration[i]) * scale));
      for (let c = Math.floor(left); c <= Math.max(Math.floor(left), Math.ceil(right) - 1); c += 1) {
        columns.set(c, Math.max(columns.get(c) ?? 0, s.bytes[i]));
      }
    }
    const points = [];
    let last = null;
    for (const [column, bytes] of [...columns].sort((a, b) => a[0] - b[0])) {
      const level = y(bytes + base()).toFixed(1);
      if (level === last) { points[points.length - 1] = `H${column + 1}`; continue; }
      points.push(`${points.length ? "V" + level : `M${column},${level}`}`, `H${column + 1}`);
      last = level;
    }
    const first = Math.min(...columns.keys()), end = Math.max(...columns.keys()) + 1;
    return { line: points.join(""), first, end, empty: columns.size === 0 };
  }

  function draw() {
    host.querySelector("svg")?.remove();
    const total = host.clientWidth || 1080;
    const width = total - MARGIN.left - MARGIN.right, height = HEIGHT - MARGIN.top - MARGIN.bottom;
    const [low, high] = range(), max = yMax();
    const x = (t) => MARGIN.left + ((t - low) / (high - low)) * width;
    const y = (b) => MARGIN.top + height - (b / max) * height;
    const svg = el("svg", { viewBox: `0 0 ${total} ${HEIGHT}`, height: HEIGHT, role: "img",
      "aria-label": "Live memory over time, before and after" }, host);
    const view = { svg, x, y, width, height, max, total };
    drawGrid(view);
    if (state.weights && data.weight_bytes) {
      el("rect", { class: "weights", x: MARGIN.left, y: y(data.weight_bytes), width,
        height: y(0) - y(data.weight_bytes), fill: "var(--weights)", opacity: 0.35 }, svg);
    }
    if (state.range) drawRange(view);
    series.forEach((s) => drawCurve(view, s));
    drawRules(view);
    series.forEach((s) => drawPeak(view, s));
    view.cursor = el("line", { y1: MARGIN.top, y2: MARGIN.top + height, stroke: "var(--soft)", opacity: 0 }, svg);
    view.dots = series.map((s) => el("circle", { r: 4.5, fill: `var(--${s.key})`, stroke: "var(--card)",
      "stroke-width": 2, opacity: 0 }, svg));
    host.view = view;
    if (state.at !== null) point(state.at);
  }

  function drawGrid({ svg, x, y, width, height, max, total }) {
    const unit = unitFor(max);
    for (const value of ticks(max, 6, unit)) {
      el("line", { x1: MARGIN.left, x2: total - MARGIN.right, y1: y(value), y2: y(value), stroke: "var(--grid)" }, svg);
      el("text", { x: MARGIN.left - 10, y: y(value) + 4, "text-anchor": "end" }, svg,
        value ? bytesText(value).replace(/\.?0+ /, " ") : "0");
    }
    const [low, high] = range(), span = high - low;
    for (const offset of ticks(span, Math.max(3, Math.round(width / 130)), state.align ? 1 : timeUnit(span))) {
      const t = low + offset;
      el("text", { x: x(t), y: MARGIN.top + height + 22, "text-anchor": "middle" }, svg,
        state.align ? `${(t * 100).toFixed(span < 0.1 ? 1 : 0)} %` : t ? timeText(t).replace(/\.0+ /, " ") : "0");
    }
  }

  const timeUnit = (span) => (span >= 1 ? 1 : span >= 1e-3 ? 1e-3 : 1e-6);

  function drawCurve({ svg, x, y, width }, s) {
    const path = outline(s, x, y, width);
    if (path.empty) return;
    const floor = y(base());
    el("path", { class: `area ${s.key}`, d: `${path.line}V${floor}H${path.first}Z`, fill: `var(--${s.key})`,
      opacity: s.key === "after" ? 0.2 : 0.22 }, svg);
    el("path", { class: `line ${s.key}`, d: path.line, fill: "none", stroke: `var(--${s.key})`,
      "stroke-width": s.key === "after" ? 1.8 : 1.3, "stroke-linejoin": "round" }, svg);
  }

  function drawRules({ svg, y, max, total }) {
    const rule = (level, color, label, dash, above) => {
      if (level < 0 || level > max) return;
      el("line", { class: label.split(" ")[0], x1: MARGIN.left, x2: total - MARGIN.right, y1: y(level), y2: y(level),
        stroke: `var(--${color})`, "stroke-width": 1.6, "stroke-dasharray": dash }, svg);
      const text = el("text", { class: "mark", x: MARGIN.left + 6, y: y(level) + (above ? -6 : 15) }, svg, label);
      text.style.fill = `var(--${color})`;
    };
    const budget = budgetLevel(), bound = data.lower_bound.unsliced + base();
    const crowded = budget !== null && Math.abs(y(budget) - y(bound)) < 24;
    rule(bound, "bound", `lower bound, unsliced ${bytesText(data.lower_bound.unsliced)}`, "2 4", !crowded || bound > budget);
    if (budget !== null) {
      rule(budget, "budget", `budget ${bytesText(data.budget_bytes)}`, "7 5", !crowded || budget >= bound);
    }
  }

  function drawPeak({ svg, x, y, width }, s) {
    const [low, high] = range(), scale = scaleOf(s);
    let top = -1;
    for (let i = 0; i < s.start.length; i += 1) if (top < 0 || s.bytes[i] > s.bytes[top]) top = i;
    if (top < 0) return;
    const at = (s.start[top] + s.duration[top] / 2) * scale;
    if (at < low || at > high) return;
    const left = x(at), side = left > MARGIN.left + width * 0.8 ? "end" : left < MARGIN.left + 70 ? "start" : "middle";
    const text = el("text", { class: "mark", x: left, y: y(s.bytes[top] + base()) - 7, "text-anchor": side }, svg,
      bytesText(s.bytes[top] + base()));
    text.style.fill = `var(--${s.key})`;
  }

  function drawRange({ svg, x, height }) {
    const [from, to] = state.range, scale = scaleOf(series[1]);
    el("rect", { class: "range", x: x(from * scale), y: MARGIN.top, width: Math.max(2, x(to * scale) - x(from * scale)),
      height, fill: "var(--hi)", stroke: "var(--after)", "stroke-opacity": 0.35 }, svg);
  }

  // Shows what runs at position t (in the units of the axis) in both programs.
  function point(t) {
    state.at = t;
    const { cursor, dots, x, y, total } = host.view;
    const [low, high] = range();
    if (t < low || t > high) return hide();
    cursor.setAttribute("x1", x(t));
    cursor.setAttribute("x2", x(t));
    cursor.setAttribute("opacity", 0.6);
    const rows = series.map((s, k) => {
      const time = t / scaleOf(s), i = indexAt(s, time);
      const found = i >= 0 && time <= s.end;
      dots[k].setAttribute("opacity", found ? 1 : 0);
      if (!found) return null;
      dots[k].setAttribute("cx", x(t));
      dots[k].setAttribute("cy", y(s.bytes[i] + base()));
      return row(s, i);
    });
    const when = document.createElement("div");
    when.className = "when";
    when.textContent = state.align ? `${(t * 100).toFixed(1)} % of the run` : `at ${timeText(t)}`;
    tip.replaceChildren(when, ...rows.filter(Boolean));
    tip.classList.add("on");
    const left = x(t) + 16 + tip.offsetWidth > total ? x(t) - 16 - tip.offsetWidth : x(t) + 16;
    tip.style.transform = `translate(${Math.max(0, left)}px, ${MARGIN.top + 6}px)`;
  }

  function row(s, i) {
    const make = (className, text) => Object.assign(document.createElement("span"), { className, textContent: text });
    const node = Object.assign(document.createElement("div"), { className: "row" });
    const dot = make("dot", "");
    dot.style.background = `var(--${s.key})`;
    const bound = s.bound(i) ? `, ${s.bound(i)}-bound` : "";
    node.append(dot, make("node", s.name(i)), make("bytes", bytesText(s.bytes[i] + base())),
      make("op", `${s.key}: ${s.op(i)}, ${timeText(s.duration[i])}${bound}`));
    return node;
  }

  function hide() {
    state.at = null;
    tip.classList.remove("on");
    host.view.cursor.setAttribute("opacity", 0);
    host.view.dots.forEach((dot) => dot.setAttribute("opacity", 0));
  }

  function timeOf(event) {
    const box = host.getBoundingClientRect(), [low, high] = range();
    const fraction = (event.clientX - box.left - MARGIN.left) / host.view.width;
    return low + Math.min(1, Math.max(0, fraction)) * (high - low);
  }

  let drag = null;
  host.addEventListener("pointerdown", (event) => { drag = { from: timeOf(event), box: null }; });
  host.addEventListener("pointermove", (event) => {
    const t = timeOf(event);
    point(t);
    if (!drag) return;
    const { svg, x, height } = host.view;
    drag.box ??= el("rect", { y: MARGIN.top, height, fill: "var(--hi)", stroke: "var(--after)" }, svg);
    drag.box.setAttribute("x", Math.min(x(drag.from), x(t)));
    drag.box.setAttribute("width", Math.abs(x(t) - x(drag.from)));
  });
  window.addEventListener("pointerup", (event) => {
    if (!drag) return;
    const ends = [drag.from, timeOf(event)].sort((a, b) => a - b), { x } = host.view;
    drag.box?.remove();
    drag = null;
    if (x(ends[1]) - x(ends[0]) > 8) zoom(ends);
  });
  host.addEventListener("pointerleave", () => { if (!drag) hide(); });
  host.addEventListener("dblclick", () => zoom(null));
  host.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { zoom(null); return hide(); }
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    event.preventDefault();
    const s = series[1], scale = scaleOf(s);
    const now = state.at === null ? -1 : indexAt(s, state.at / scale);
    const next = Math.min(s.start.length - 1, Math.max(0, now + (event.key === "ArrowRight" ? 1 : -1)));
    point((s.start[next] + s.duration[next] / 2) * scale);
  });

  function zoom(ends) {
    state.zoom = ends;
    document.getElementById("reset").hidden = ends === null;
    draw();
  }

  function toggle(id, key, after) {
    const button = document.getElementById(id);
    button?.addEventListener("click", () => {
      state[key] = !state[key];
      button.setAttribute("aria-pressed", String(state[key]));
      after?.();
      draw();
    });
  }

  // report.html#node=NAME opens with that op's figures; a region's row links to its stretch.
  function followHash() {
    const name = decodeURIComponent(location.hash.match(/^#node=(.*)$/)?.[1] ?? "");
    if (!name) return;
    for (const s of [series[1], series[0]]) {
      for (let i = 0; i < s.start.length; i += 1) {
        if (s.name(i) !== name) continue;
        return point((s.start[i] + s.duration[i] / 2) * scaleOf(s));
      }
    }
  }

  function selectRow(tr) {
    document.querySelectorAll("tr.on").forEach((other) => other.classList.remove("on"));
    tr.classList.add("on");
    const start = Number(tr.dataset.start), seconds = Number(tr.dataset.seconds);
    state.range = [start, start + seconds];
    draw();
    point((start + seconds / 2) * scaleOf(series[1]));
    host.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }

  toggle("align", "align", () => { state.zoom = null; state.at = null; document.getElementById("reset").hidden = true; });
  toggle("weights", "weights");
  document.getElementById("reset").addEventListener("click", () => zoom(null));
  document.querySelectorAll("tr[data-start]").forEach((tr) => tr.addEventListener("click", () => selectRow(tr)));
  document.getElementById("theme").addEventListener("click", () => {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (document.documentElement.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  });
  document.getElementById("filter")?.addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase();
    document.querySelectorAll("#why tbody tr").forEach((tr) => {
      tr.hidden = !tr.textContent.toLowerCase().includes(words);
    });
  });
  new ResizeObserver(() => { if (host.view?.total !== host.clientWidth) draw(); }).observe(host);
  window.addEventListener("hashchange", followHash);
  draw();
  followHash();
})();
