/* What a reader chose, kept in the browser. No DOM here. */

const NAME = "heliograph.preferences";
const CHOICES = {
  theme: ["auto", "light", "dark"],
  density: ["dense", "roomy"],
  times: ["relative", "absolute"],
  notify: ["off", "on"],
};

export class Preferences {
  #values;
  #changed;

  /** @param {(values: object) => void} changed is told of every change, and of how it is at first */
  constructor(changed) {
    this.#changed = changed;
    this.#read();
    addEventListener("storage", ({ key }) => key === NAME && this.#read()); // another tab chose
  }

  /** The choices there are. */
  get choices() {
    return CHOICES;
  }

  get(name) {
    return this.#values[name];
  }

  set(name, value) {
    this.#values[name] = value;
    localStorage.setItem(NAME, JSON.stringify(this.#values));
    this.#changed(this.#values);
  }

  #read() {
    let kept = {};
    try {
      kept = JSON.parse(localStorage.getItem(NAME)) ?? {};
    } catch {
      // what is there is none of ours
    }
    this.#values = Object.fromEntries(Object.entries(CHOICES).map(([name, values]) => [name, values.includes(kept[name]) ? kept[name] : values[0]]));
    this.#changed(this.#values);
  }
}
