/**
 * JSON as Python's `json.loads` reads it, with what JavaScript's own reader loses: the order of number-like keys, and keys
 * that come twice (an error here).
 */

const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?/y
const CONSTANT = /true|false|null|NaN|-?Infinity/y
const BLANKS = /[ \t\n\r]*/y
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what may not stand in a string
const STRING = /"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y
/** @type {Record<string, Json>} */
const CONSTANTS = {
  true: true,
  false: false,
  null: null,
  NaN: Number.NaN,
  Infinity: Number.POSITIVE_INFINITY,
  '-Infinity': Number.NEGATIVE_INFINITY
}
const DEEPEST = 200

/** @typedef {null | boolean | number | string | Json[] | Map<string, Json>} Json */

/**
 * @param {string} text
 * @returns {Json}
 * @throws {SyntaxError} for what is no JSON, with the place
 */
export function parseJson(text) {
  const reader = new Reader(text)
  const found = reader.value(0)
  reader.blanks()
  if (reader.at < text.length) reader.fail('something stands behind the end')
  return found
}

class Reader {
  /** @param {string} text */
  constructor(text) {
    this.text = text
    this.at = 0
  }

  /**
   * @param {string} why
   * @returns {never}
   */
  fail(why) {
    throw new SyntaxError(`${why} (character ${this.at + 1})`)
  }

  /** @param {RegExp} pattern sticky */
  take(pattern) {
    pattern.lastIndex = this.at
    const found = pattern.exec(this.text)
    if (found) this.at = pattern.lastIndex
    return found?.[0]
  }

  blanks() {
    this.take(BLANKS)
  }

  /** @param {string} sign */
  sign(sign) {
    this.blanks()
    if (this.text[this.at] !== sign) return false
    this.at += 1
    return true
  }

  /**
   * @param {number} depth
   * @returns {Json}
   */
  value(depth) {
    if (depth > DEEPEST) this.fail('too deep')
    if (this.sign('{')) return this.object(depth)
    if (this.sign('[')) return this.list(depth)
    const constant = this.take(CONSTANT)
    if (constant !== undefined) return CONSTANTS[constant]
    const number = this.take(NUMBER)
    return number === undefined ? this.string() : Number(number)
  }

  string() {
    const found = this.take(STRING)
    return found === undefined ? this.fail('a value is missing or broken') : String(JSON.parse(found))
  }

  /** @param {number} depth */
  list(depth) {
    /** @type {Json[]} */
    const found = []
    if (this.sign(']')) return found
    do found.push(this.value(depth + 1))
    while (this.sign(','))
    return this.sign(']') ? found : this.fail('a list has no end')
  }

  /** @param {number} depth */
  object(depth) {
    /** @type {Map<string, Json>} */
    const found = new Map()
    if (this.sign('}')) return found
    do {
      this.blanks()
      const key = this.string()
      if (found.has(key)) this.fail(`two entries are called '${key}'`)
      if (!this.sign(':')) this.fail('a colon is missing')
      found.set(key, this.value(depth + 1))
    } while (this.sign(','))
    return this.sign('}') ? found : this.fail('an object has no end')
  }
}
