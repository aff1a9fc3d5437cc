/** Matrices as tiles of coloured cells: one tile for each layer and state, negative to positive in two colours. */

import { element } from "./dom.js";

/**
 * @typedef {{held: string, layer: number, state: number, row: number, column: number, value: number}} Cell
 */

const EDGE = 6; // canvas pixels a cell; the canvas is scaled by CSS

/** @param {HTMLElement} element @returns {{zero: number[], low: number[], high: number[]}} the colours of the theme */
function colours(element) {
  const style = getComputedStyle(element);
  const rgb = (name) => style.getPropertyValue(name).trim().match(/\w\w/g).map((part) => parseInt(part, 16));
  return { zero: rgb("--zero"), low: rgb("--low"), high: rgb("--high") };
}

/** @param {number} share from -1 to 1 */
function mix(share, { zero, low, high }) {
  const end = share < 0 ? low : high;
  const amount = Math.min(1, Math.abs(share)) ** 0.7; // small values stay visible
  return `rgb(${zero.map((from, i) => Math.round(from + amount * (end[i] - from))).join()})`;
}

/** @param {number} value */
export const shown = (value) => (Math.abs(value) >= 0.0005 || value === 0 ? value.toFixed(3) : value.toExponential(1));

export class Heatmap {
  /**
   * @param {HTMLElement} root where it is drawn
   * @param {string} name what the matrices are, for the words about a cell
   * @param {(text: string) => void} say shows a cell's value
   */
  constructor(root, name, say) {
    this.root = root;
    this.name = name;
    this.say = say;
    this.layers = [];
    /** @type {?number[][][][]} */
    this.matrices = null;
    this.at = { layer: 0, state: 0, row: 0, column: 0 };
    this.root.addEventListener("keydown", (event) => this.#key(event));
    this.root.addEventListener("pointermove", (event) => this.#point(event));
    this.root.addEventListener("focusin", () => this.#tell());
  }

  /**
   * @param {?number[][][][]} matrices `[layers][states][R][R]`; null for none
   * @param {number[]} layers the numbers of the layers
   * @param {string} none what is said where there are none
   */
  show(matrices, layers, none = "") {
    this.layers = layers;
    this.matrices = matrices;
    this.root.replaceChildren();
    if (!matrices) {
      this.root.append(element("p", { className: "none" }, none));
      return;
    }
    const flat = matrices.flat(3).map(Math.abs);
    this.most = flat.reduce((a, b) => Math.max(a, b), 0) || 1;
    const grid = element("div", { className: "tiles", role: "grid" });
    grid.setAttribute("aria-label", `${this.name}: ${layers.length} layers of ${matrices[0].length} states`);
    grid.style.setProperty("--states", String(matrices[0].length));
    this.tiles = matrices.map((states, layer) => {
      const row = element("div", { role: "row" });
      row.append(element("span", { role: "rowheader", title: `Layer ${layers[layer]}` }, `L${layers[layer]}`));
      const tiles = states.map((matrix, state) => {
        const tile = element("canvas", { role: "gridcell", tabIndex: -1, width: EDGE * 8, height: EDGE * 8 });
        tile.width = tile.height = EDGE * matrix.length;
        const norm = Math.hypot(...matrix.flat());
        tile.setAttribute("aria-label", `Layer ${layers[layer]}, state ${state + 1}: norm ${shown(norm)}`);
        tile.dataset.layer = String(layer);
        tile.dataset.state = String(state);
        return tile;
      });
      row.append(...tiles);
      grid.append(row);
      return tiles;
    });
    this.root.append(grid, this.#legend());
    this.at = { layer: Math.min(this.at.layer, layers.length - 1), state: this.at.state, row: 0, column: 0 };
    this.#tile().tabIndex = 0;
    this.paint();
  }

  /** Draws all tiles in the colours of the theme. */
  paint() {
    if (!this.matrices) return;
    const theme = colours(this.root);
    this.matrices.forEach((states, layer) =>
      states.forEach((matrix, state) => {
        const draw = this.tiles[layer][state].getContext("2d");
        matrix.forEach((row, i) =>
          row.forEach((value, j) => {
            draw.fillStyle = mix(value / this.most, theme);
            draw.fillRect(j * EDGE, i * EDGE, EDGE, EDGE);
          }),
        );
      }),
    );
    const bar = this.root.querySelector(".bar").getContext("2d");
    for (let x = 0; x < 101; x++) {
      bar.fillStyle = mix((x - 50) / 50, theme);
      bar.fillRect(x, 0, 1, 1);
    }
  }

  #legend() {
    const legend = element("div", { className: "legend" });
    const bar = element("canvas", { className: "bar", width: 101, height: 1 });
    bar.setAttribute("aria-hidden", "true");
    legend.append(element("span", {}, `−${shown(this.most)}`), bar, element("span", {}, `+${shown(this.most)}`));
    return legend;
  }

  #tile() {
    return this.tiles[this.at.layer][this.at.state];
  }

  #tell() {
    if (!this.matrices) return;
    const { layer, state, row, column } = this.at;
    const matrix = this.matrices[layer][state];
    const norm = shown(Math.hypot(...matrix.flat()));
    this.say(
      `${this.name}, layer ${this.layers[layer]}, state ${state + 1} (norm ${norm}), ` +
        `row ${row + 1}, column ${column + 1}: ${shown(matrix[row][column])}`,
    );
  }

  /** Arrow keys go from tile to tile; with Shift, from cell to cell. @param {KeyboardEvent} event */
  #key(event) {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [];
    if (down === undefined || !this.matrices) return;
    event.preventDefault();
    const within = (value, length) => Math.max(0, Math.min(length - 1, value));
    const side = this.matrices[0][0].length;
    if (event.shiftKey) {
      this.at.row = within(this.at.row + down, side);
      this.at.column = within(this.at.column + right, side);
      this.#tell();
      return;
    }
    this.#tile().tabIndex = -1;
    this.at.layer = within(this.at.layer + down, this.layers.length);
    this.at.state = within(this.at.state + right, this.matrices[0].length);
    this.#tile().tabIndex = 0;
    this.#tile().focus();
    this.#tell();
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const tile = event.target;
    if (!this.matrices || !(tile instanceof HTMLCanvasElement) || tile.dataset.layer === undefined) return;
    const side = this.matrices[0][0].length;
    const cell = (offset, length) => Math.max(0, Math.min(side - 1, Math.floor((offset / length) * side)));
    this.#tile().tabIndex = -1;
    this.at = {
      layer: Number(tile.dataset.layer),
      state: Number(tile.dataset.state),
      row: cell(event.offsetY, tile.clientHeight),
      column: cell(event.offsetX, tile.clientWidth),
    };
    tile.tabIndex = 0;
    this.#tell();
  }
}
