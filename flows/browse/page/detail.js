// The open row: its images enlarged, all that is known of it, and the way to its neighbours.
import { element, thumbnail, words } from "./cards.js";

const at = (id) => document.getElementById(id);

export class Detail {
  // ask: row number -> the whole row; step: -1 or 1 -> the neighbour, or null at the end.
  constructor(ask, step) {
    Object.assign(this, { ask, step, dialog: at("detail"), shown: 0 });
    at("before").addEventListener("click", () => this.move(-1));
    at("after").addEventListener("click", () => this.move(1));
    this.dialog.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) this.move(by);
      if (by) event.preventDefault();
      event.stopPropagation();
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  async open(row, where, steps = true) {
    const turn = ++this.shown;
    this.show(row, where);
    for (const id of ["before", "after"]) at(id).hidden = !steps;
    if (!this.dialog.open) this.dialog.showModal();
    const whole = await this.ask(row.row);
    if (whole && turn === this.shown) this.show(whole, where);
  }

  show({ fields, images }, where) {
    const caption = fields.caption ?? "";
    at("where").textContent = where;
    const key = images.map((image) => image.url).join();
    if (key !== at("large").dataset.key) at("large").replaceChildren(...images.map((each) => thumbnail(each, caption, images.length > 1)));
    at("large").dataset.key = key;
    at("fields").replaceChildren(
      ...Object.entries(fields).flatMap(([name, value]) => [element("dt", { text: words(name) }), element("dd", { text: value })]),
    );
  }

  async move(by) {
    const next = await this.step(by);
    if (next) this.open(next.row, next.where);
  }
}
