/** Undo and redo: texts, one after the other. */

const MOST = 200

export class History {
  /** @param {string} text */
  constructor(text) {
    this.now = text
    /** @type {string[]} */
    this.past = []
    /** @type {string[]} */
    this.future = []
  }

  /**
   * A new text; what was undone is gone.
   * @param {string} text
   */
  push(text) {
    if (text === this.now) return
    this.past = [...this.past.slice(-MOST + 1), this.now]
    this.now = text
    this.future = []
  }

  /** @returns {string | null} the text before; null where there is none */
  undo() {
    const text = this.past.pop()
    if (text === undefined) return null
    this.future.push(this.now)
    this.now = text
    return text
  }

  /** @returns {string | null} */
  redo() {
    const text = this.future.pop()
    if (text === undefined) return null
    this.past.push(this.now)
    this.now = text
    return text
  }
}
