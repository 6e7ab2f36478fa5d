// An image, and the tokens of it that are to be sampled anew. A token is a square of `side` pixels.

const DISPLAY = 480; // CSS pixels that a small image is enlarged to
const HISTORY = 20;
// Columns and rows by which an image moves when it is continued at an edge.
const SHIFT = { left: [1, 0], right: [0, 0], top: [0, 1], bottom: [0, 0] };

export class MaskedCanvas {
  constructor(canvas, side, onChange) {
    Object.assign(this, { canvas, side, onChange, brush: side / 2, erase: false, marked: new Set(), history: [] });
    this.image = document.createElement("canvas");
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.stroke(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && this.stroke(event));
  }

  get rows() { return this.image.height / this.side; }
  get columns() { return this.image.width / this.side; }

  // Show an image or canvas of whole tokens; nothing is marked.
  show(source) {
    if (this.shown) this.history = [...this.history, this.image].slice(-HISTORY);
    this.replace(source);
  }

  undo() {
    if (this.history.length) this.replace(this.history.pop());
  }

  replace(source) {
    this.image = copy(source, source.naturalWidth || source.width, source.naturalHeight || source.height);
    this.shown = true;
    this.marked.clear();
    this.draw();
  }

  // Add a row or column of tokens at one edge, filled with that edge's pixels and marked.
  extend(edge) {
    const { width, height } = this.image, across = edge === "left" || edge === "right";
    const [left, top] = SHIFT[edge].map((shift) => shift * this.side);
    const wide = copy(null, width + (across ? this.side : 0), height + (across ? 0 : this.side));
    const context = wide.getContext("2d");
    if (across) context.drawImage(this.image, left ? 0 : width - 1, 0, 1, height, left ? 0 : width, 0, this.side, height);
    else context.drawImage(this.image, 0, top ? 0 : height - 1, width, 1, 0, top ? 0 : height, width, this.side);
    context.drawImage(this.image, left, top);
    const before = [...this.marked].map((token) => token.split(",").map(Number));
    this.show(wide);
    for (const [row, column] of before) this.marked.add(`${row + top / this.side},${column + left / this.side}`);
    const last = { left: 0, top: 0, right: this.columns - 1, bottom: this.rows - 1 }[edge];
    for (let k = 0; k < (across ? this.rows : this.columns); k++) this.marked.add(across ? `${k},${last}` : `${last},${k}`);
    this.draw();
  }

  // Mark every token that the brush touches.
  stroke(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left - 1) / (box.width - 2)) * this.image.width;
    const y = ((event.clientY - box.top - 1) / (box.height - 2)) * this.image.height;
    this.forEachToken((row, column, token) => {
      const far = (at, from) => Math.max(from - at, at - (from + this.side), 0);
      if (Math.hypot(far(x, column * this.side), far(y, row * this.side)) >= this.brush) return;
      if (this.erase) this.marked.delete(token);
      else this.marked.add(token);
    });
    this.draw();
  }

  clear() {
    this.marked.clear();
    this.draw();
  }

  invert() {
    this.forEachToken((row, column, token) => this.marked.delete(token) || this.marked.add(token));
    this.draw();
  }

  forEachToken(visit) {
    for (let row = 0; row < this.rows; row++)
      for (let column = 0; column < this.columns; column++) visit(row, column, `${row},${column}`);
  }

  // The image and its mask, white where it is marked, as PNG in base64.
  encoded() {
    const mask = copy(null, this.image.width, this.image.height), context = mask.getContext("2d");
    context.fillStyle = "black";
    context.fillRect(0, 0, mask.width, mask.height);
    context.fillStyle = "white";
    this.fillMarked(context, 1);
    return { image: base64(this.image), mask: base64(mask) };
  }

  fillMarked(context, scale) {
    const side = this.side * scale;
    this.forEachToken((row, column, token) => {
      if (this.marked.has(token)) context.fillRect(column * side, row * side, side, side);
    });
  }

  draw() {
    const scale = Math.max(1, Math.floor(DISPLAY / this.image.width));
    this.canvas.width = this.image.width * scale;
    this.canvas.height = this.image.height * scale;
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    context.fillStyle = "rgb(255 0 200 / 45%)";
    this.fillMarked(context, scale);
    this.onChange(this);
  }
}

// A canvas of its own with these pixels, opaque.
export function copy(source, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  if (source) context.drawImage(source, 0, 0, width, height);
  return canvas;
}

// An image of a person, cropped to whole tokens at about the size that the student knows.
export function fit(source, side, area, maxPixels) {
  const { width, height } = source, whole = width % side === 0 && height % side === 0;
  if (whole && width * height <= maxPixels) return copy(source, width, height);
  const scale = Math.sqrt(area / (width * height));
  const tokens = (length) => Math.max(1, Math.min(Math.round((length * scale) / side), Math.floor(maxPixels / side ** 2)));
  const fitted = copy(null, tokens(width) * side, tokens(height) * side);
  const cover = Math.max(fitted.width / width, fitted.height / height);
  const [w, h] = [width * cover, height * cover], context = fitted.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (fitted.width - w) / 2, (fitted.height - h) / 2, w, h);
  return fitted;
}

function base64(canvas) {
  return canvas.toDataURL("image/png").split(",")[1];
}
