// The map: points of principal components on a canvas, to be moved, enlarged and clicked.
import { element, words } from "./cards.js";

const at = (id) => document.getElementById(id);
const PALETTE = ["#4c78c9", "#e07b39", "#3d9a63", "#c9504c", "#8e6bbf", "#8c6d4f", "#d679b4", "#c9a227", "#3fa7b5", "#7f8c2d", "#5b5f97", "#8a8a86"];
const REACH = 14; // px from a click to its point

const ramp = (share) => `hsl(${Math.round(250 - 210 * share)} 70% 52%)`;

export class EmbeddingMap {
  // ask: (path, parameters) -> response; open: row -> shows it; look: row -> its fields and image.
  constructor(ask, open, look) {
    Object.assign(this, { ask, open, look, canvas: at("canvas"), run: null, view: { x: 0, y: 0, scale: 1 } });
    at("colour").addEventListener("change", () => this.paint());
    at("axes").addEventListener("change", () => this.fit());
    at("fit").addEventListener("click", () => this.fit());
    new ResizeObserver(() => this.points && this.draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.points && this.draw());
    this.listen();
  }

  async show(run, filters) {
    if (run !== this.run) await this.load(run);
    if (!this.points) return;
    const matches = filters.has("search") || filters.has("filter") ? await this.ask("api/map/matches", { run }, filters) : null;
    this.matching = matches && new Uint8Array(await matches.arrayBuffer());
    this.draw();
    return this.matching ? this.matching.reduce((sum, each) => sum + each, 0) : this.rows.length;
  }

  async load(run) {
    this.points = null;
    const facts = await (await this.ask("api/map", { run })).json();
    const bytes = await (await this.ask("api/map/points", { run })).arrayBuffer(), n = facts.points;
    this.rows = new Uint32Array(bytes, 0, n);
    this.components = facts.explained.map((_, number) => new Float32Array(bytes, 4 * n * (number + 1), n));
    const few = facts.points < facts.of ? `, of ${facts.of.toLocaleString()} images` : "";
    this.facts = `${n.toLocaleString()} points${few}; principal components of the images' CLIP embeddings`;
    at("colour").replaceChildren(...facts.colours.map((name) => new Option(words(name), name)), new Option("one colour", ""));
    const pairs = facts.explained.map((_, number) => number).filter((number) => number % 2 === 1);
    const share = (number) => `${(100 * facts.explained[number]).toFixed(0)} %`;
    at("axes").replaceChildren(...pairs.map((y) => new Option(`${y} and ${y + 1} (${share(y - 1)}, ${share(y)})`, y)));
    Object.assign(this, { run, points: true, matching: null });
    await this.paint(false);
    this.fit();
  }

  // Fetch a colour for each point.
  async paint(draw = true) {
    const by = at("colour").value, legend = [];
    this.colours = null;
    if (by) {
      const got = await (await this.ask("api/map/colours", { run: this.run, by })).json();
      if (got.classes) {
        this.colours = got.codes.map((code) => PALETTE[code]);
        legend.push(...got.classes.map((name, code) => [PALETTE[code], words(name || "none")]));
        if (got.codes.some((code) => code === got.classes.length)) legend.push([PALETTE[got.classes.length], "others"]);
      } else {
        const span = got.high - got.low || 1;
        this.colours = got.values.map((value) => ramp(Math.min(1, Math.max(0, (value - got.low) / span))));
        legend.push(...[0, 0.5, 1].map((share) => [ramp(share), (got.low + share * span).toFixed(3)]));
      }
    }
    at("legend").replaceChildren(...legend.map(([colour, text]) => element("li", {}, dot(colour), text)));
    if (draw) this.draw();
  }

  get axes() {
    const y = Number(at("axes").value);
    return [this.components[y - 1], this.components[y]];
  }

  fit() {
    const [xs, ys] = this.axes, size = this.canvas.getBoundingClientRect();
    const [x0, x1, y0, y1] = [...range(xs), ...range(ys)];
    const scale = 0.94 * Math.min(size.width / (x1 - x0 || 1), size.height / (y1 - y0 || 1));
    this.view = { x: (x0 + x1) / 2, y: (y0 + y1) / 2, scale };
    this.draw();
  }

  // Pixels of a point, of the canvas as it is laid out.
  place(number) {
    const [xs, ys] = this.axes, { x, y, scale } = this.view, { clientWidth: w, clientHeight: h } = this.canvas;
    return [w / 2 + (xs[number] - x) * scale, h / 2 - (ys[number] - y) * scale];
  }

  draw() {
    const ratio = devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = this.canvas, pen = this.canvas.getContext("2d");
    if (!this.points || !w) return;
    Object.assign(this.canvas, { width: w * ratio, height: h * ratio });
    pen.scale(ratio, ratio);
    const [xs, ys] = this.axes, { x, y, scale } = this.view, side = this.rows.length > 20000 ? 2 : this.rows.length > 3000 ? 3 : 5;
    const ink = getComputedStyle(document.body).color;
    for (const pass of this.matching ? [0, 1] : [1]) {
      pen.globalAlpha = pass ? 0.8 : 0.1;
      for (let number = 0; number < xs.length; number++) {
        if (this.matching && this.matching[number] !== pass) continue;
        const px = w / 2 + (xs[number] - x) * scale, py = h / 2 - (ys[number] - y) * scale;
        if (px < -side || py < -side || px > w + side || py > h + side) continue;
        pen.fillStyle = this.colours ? this.colours[number] : ink;
        pen.fillRect(px - side / 2, py - side / 2, side, side);
      }
    }
    at("map-facts").textContent = this.facts;
  }

  // The nearest point of a place, or null beyond its reach; where there is a search, one that matches.
  nearest(px, py, reach = REACH) {
    let best = null, least = reach ** 2;
    for (let number = 0; number < this.rows.length; number++) {
      if (this.matching && !this.matching[number]) continue;
      const [x, y] = this.place(number), distance = (x - px) ** 2 + (y - py) ** 2;
      if (distance <= least) [best, least] = [number, distance];
    }
    return best;
  }

  zoom(factor, px, py) {
    const { clientWidth: w, clientHeight: h } = this.canvas, { view } = this;
    view.x += ((px - w / 2) / view.scale) * (1 - 1 / factor);
    view.y -= ((py - h / 2) / view.scale) * (1 - 1 / factor);
    view.scale *= factor;
    this.draw();
  }

  move(dx, dy) {
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.draw();
  }

  listen() {
    const { canvas } = this;
    let from = null, moved = 0, timer = 0;
    canvas.addEventListener("pointerdown", (event) => {
      [from, moved] = [event, 0];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      clearTimeout(timer);
      if (from) {
        moved += Math.abs(event.clientX - from.clientX) + Math.abs(event.clientY - from.clientY);
        this.move(event.clientX - from.clientX, event.clientY - from.clientY);
        from = event;
      } else timer = setTimeout(() => this.hover(event.offsetX, event.offsetY), 60);
    });
    canvas.addEventListener("pointerup", (event) => {
      from = null;
      const number = moved < 5 && this.points ? this.nearest(event.offsetX, event.offsetY) : null;
      if (number !== null) this.open(this.rows[number]);
    });
    canvas.addEventListener("pointerleave", () => {
      clearTimeout(timer);
      at("hover").hidden = true;
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    });
    canvas.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      const factor = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 }[event.key];
      if (by) this.move(...by);
      if (factor) this.zoom(factor, canvas.clientWidth / 2, canvas.clientHeight / 2);
      const middle = event.key === "Enter" && this.points ? this.nearest(canvas.clientWidth / 2, canvas.clientHeight / 2, Infinity) : null;
      if (middle !== null) this.open(this.rows[middle]);
      if (by || factor) event.preventDefault(), event.stopPropagation();
    });
  }

  async hover(px, py) {
    const number = this.points ? this.nearest(px, py) : null, box = at("hover");
    this.hovered = number;
    if (number === null) return (box.hidden = true);
    const row = await this.look(this.rows[number]);
    if (!row || this.hovered !== number) return;
    const image = row.images[0] && element("img", { src: row.images[0].url, alt: "", className: "small" });
    box.replaceChildren(...(image ? [image] : []), row.fields.caption.slice(0, 160));
    box.hidden = false;
    box.style.left = `${Math.min(px + 14, this.canvas.clientWidth - 180)}px`;
    box.style.top = `${Math.min(py + 14, this.canvas.clientHeight - 200)}px`;
  }
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return [low, high];
}

function dot(colour) {
  const made = element("canvas", { width: 8, height: 8 }), pen = made.getContext("2d");
  pen.fillStyle = colour;
  pen.fillRect(0, 0, 8, 8);
  return made;
}
