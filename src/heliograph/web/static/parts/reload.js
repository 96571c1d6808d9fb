/* When a view asks the service again: a while after it heard that its answers are old, once for all that comes
   meanwhile. A hidden page asks nothing until it is looked at. */

export class Reload {
  #timer = null;
  #owed = false; // since the page is hidden
  #looked = () => this.#owed && this.#due();

  /**
   * @param {() => void} load asks the service
   * @param {number} ms from the first word of old answers
   */
  constructor(load, ms) {
    Object.assign(this, { load, ms });
    document.addEventListener("visibilitychange", this.#looked);
  }

  /** The answers are old. */
  soon = () => {
    this.#timer ??= setTimeout(() => this.#due(), this.ms);
  };

  #due() {
    this.#timer = null;
    this.#owed = document.hidden;
    if (!this.#owed) this.load();
  }

  close() {
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#looked);
  }
}
