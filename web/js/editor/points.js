/**
 * Places that are pinned before a clip is sampled, as text: "60,90@8; 50%,25%". `matrix_lib/core/points.py` reads the same;
 * `tests/data/tracks_text.json` holds the two together.
 */

/** Pixels of the model's frames, or percent of them where `percent` says so (x, y); frame: of pixels, from 0. */
/** @typedef {{x: number, y: number, frame: number, percent: [boolean, boolean]}} Point */

export const MOST_POINTS = 64
const COORDINATE = '((?:[0-9]{1,9}(?:\\.[0-9]{0,3})?|\\.[0-9]{1,3})%?)'
const POINT = new RegExp(`^${COORDINATE}[ \\t]*,[ \\t]*${COORDINATE}(?:[ \\t]*@[ \\t]*([0-9]{1,7}))?$`)

/**
 * The points of a text, each once.
 * @param {string} text
 * @returns {Point[]}
 * @throws {Error} with what cannot be read
 */
export function parsePoints(text) {
  /** @type {Map<string, Point>} */
  const found = new Map()
  for (const piece of text.split(/[;\r\n]/)) {
    const said = piece.replace(/^[ \t]+|[ \t]+$/g, '')
    if (!said) continue
    const match = POINT.exec(said)
    if (!match) throw new Error(`points are written as x,y or x,y@frame; got '${said.slice(0, 60)}'`)
    const [x, y] = [match[1], match[2]]
    const point = /** @type {Point} */ ({
      x: Number.parseFloat(x),
      y: Number.parseFloat(y),
      frame: Number(match[3] ?? 0),
      percent: [x.endsWith('%'), y.endsWith('%')]
    })
    found.set(printPoint(point), point)
  }
  if (found.size > MOST_POINTS) throw new Error(`at most ${MOST_POINTS} points can be pinned; got ${found.size}`)
  return [...found.values()]
}

/** @param {Point} point */
export function printPoint({ x, y, frame, percent }) {
  const [across, down] = [x, y].map((value, i) => `${decimal(value)}${percent[i] ? '%' : ''}`)
  return `${across},${down}@${frame}`
}

/** Without an exponent: the grammar has none. @param {number} value */
function decimal(value) {
  return value.toFixed(3).replace(/0+$/, '').replace(/\.$/, '')
}

/**
 * A text with another point; the rest of it stays as it was typed. One that is there already is not added again.
 * @param {string} text
 * @param {Point} point
 * @returns {string}
 * @throws {Error} for a text that cannot be read
 */
export function withPoint(text, point) {
  const there = parsePoints(text)
  const added = printPoint(point)
  if (there.some((one) => printPoint(one) === added)) return text
  parsePoints(`${text};${added}`)
  const open = text.replace(/[ \t;]+$/, '')
  return open ? `${open}${/[\r\n]$/.test(open) ? '' : '; '}${added}` : added
}

/**
 * A text without one of its points; the others stay as they were typed.
 * @param {string} text
 * @param {Point} point
 * @returns {string}
 * @throws {Error} for a text that cannot be read
 */
export function withoutPoint(text, point) {
  parsePoints(text)
  const gone = printPoint(point)
  const pieces = text.split(/([;\r\n])/)
  const kept = pieces.filter((piece, i) => {
    const own = i % 2 ? pieces[i - 1] : piece // what ends a piece goes with it
    const [read] = parsePoints(own)
    return !read || printPoint(read) !== gone
  })
  return kept.join('').replace(/^[ \t;]+|[ \t;]+$/g, '')
}
