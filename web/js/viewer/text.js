/**
 * What is looked at, as the fields of MATRIX Preview Attention have it: "all", "7, 11-13", "cyclist, van".
 */

const PIECE = /^([0-9]{1,6})(?:\s*(?:-|\.\.|to|–)\s*([0-9]{1,6}))?$/

/**
 * Numbers as a person writes them, neighbours joined; all that exist are "all".
 * @param {number[]} numbers ascending
 * @param {number[]} existing
 * @returns {string}
 */
export function numbersText(numbers, existing) {
  return numbers.length === existing.length ? 'all' : rangesText(numbers)
}

/**
 * @param {number[]} numbers ascending
 * @returns {string}
 */
export function rangesText(numbers) {
  /** @type {[number, number][]} */
  const runs = []
  for (const number of numbers) {
    const last = runs[runs.length - 1]
    if (last && last[1] + 1 === number) last[1] = number
    else runs.push([number, number])
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(', ')
}

/**
 * The numbers of `existing` that a text names.
 * @param {string} text
 * @param {number[]} existing ascending
 * @param {Record<string, number[]>} [named] further words, such as experts
 * @returns {number[] | null} null where it cannot be read, or names one that is not there
 */
export function readNumbers(text, existing, named = {}) {
  const words = new Map(Object.entries(named).map(([name, numbers]) => [name.toLowerCase(), numbers]))
  words.set('all', existing).set('first', existing.slice(0, 1)).set('last', existing.slice(-1))
  const pieces = text.split(',').map((piece) => piece.trim().toLowerCase())
  /** @type {Set<number>} */
  const found = new Set()
  for (const piece of pieces.filter(Boolean).length ? pieces.filter(Boolean) : ['all']) {
    const told = words.get(piece) ?? inRange(piece, existing)
    if (!told?.length) return null
    for (const number of told) found.add(number)
  }
  return existing.filter((number) => found.has(number))
}

/**
 * @param {string} piece
 * @param {number[]} existing
 */
function inRange(piece, existing) {
  const ends = PIECE.exec(piece)
  if (!ends) return null
  const [first, last] = [Number(ends[1]), Number(ends[2] ?? ends[1])]
  return existing.filter((number) => first <= number && number <= last)
}

/**
 * @param {string[]} names
 * @param {string[]} existing
 * @returns {string | null} null where a comma in a name keeps it from being written
 */
export function namesText(names, existing) {
  if (names.length === existing.length) return 'all'
  if (names.length > 1 && names.some((name) => name.includes(','))) return null
  return names.join(', ')
}

/**
 * @param {string} text
 * @param {string[]} existing
 * @returns {string[] | null} null where it names one that is not there
 */
export function readNames(text, existing) {
  const whole = text.trim().toLowerCase()
  if (!whole || whole === 'all') return existing
  const known = new Map(existing.map((name) => [name.toLowerCase(), name]))
  const wanted = known.has(whole) ? [whole] : whole.split(',').map((name) => name.trim())
  const names = wanted.filter(Boolean).map((name) => known.get(name))
  const found = names.filter((name) => name !== undefined)
  return found.length && found.length === names.length ? existing.filter((name) => found.includes(name)) : null
}

/**
 * Two probabilities as percents with the same digits, two of them for the greater.
 * @param {number} low
 * @param {number} high
 * @returns {[string, string]}
 */
export function percents(low, high) {
  const top = Math.max(Math.abs(low), Math.abs(high)) * 100
  const digits = top === 0 ? 0 : Math.min(7, Math.max(0, 1 - Math.floor(Math.log10(top))))
  const [first, second] = [low, high].map((value) => `${(value * 100).toFixed(digits)} %`)
  return [Number.parseFloat(first) === 0 ? '0 %' : first, second]
}
