/**
 * What stands behind a key frame: a box, or points and a box for SAM. As typed (numbers with their units), in pixels, and
 * printed again.
 */
import { isMask, parseMask, printMask } from './painted.js'
import { BLANK, shorten, strip } from './text.js'

const NUMBER = '[-+]?(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)%?'
const NUMBERS = new RegExp(NUMBER, 'g')
const NO_BOX = new RegExp(`${NUMBER}|[${BLANK},]`, 'g')
const BOXES = /\[([^\]]*)\]/g
const COORDINATE = '(?:[0-9]+\\.?[0-9]*|\\.[0-9]+)%?'
const POINT = new RegExp(`([-+!]?)[${BLANK}]*(${COORDINATE})[${BLANK}]*,[${BLANK}]*(${COORDINATE})`, 'g')
const LARGEST = 1e9

/** A number in pixels, or in percent of the frame. @typedef {{value: number, percent: boolean}} Length */
/** Left, top, right, bottom. @typedef {[Length, Length, Length, Length]} Box */
/** @typedef {{x: Length, y: Length, inside: boolean}} Point */
/** A mask stands alone. @typedef {{points: Point[], box: Box | null, mask: import('./painted.js').Mask | null}} Prompt */
/** Width and height of a frame in pixels. @typedef {{width: number, height: number}} Size */
/** In pixels: left, top, right, bottom. @typedef {[number, number, number, number]} Corners */

/**
 * @param {string} text
 * @returns {Length}
 */
const length = (text) =>
  text.endsWith('%') ? { value: Number(text.slice(0, -1)), percent: true } : { value: Number(text), percent: false }

/**
 * @param {Length} one
 * @throws {Error} for what is far beyond every picture
 */
function bounded(one) {
  if (!(Math.abs(one.value) <= LARGEST)) throw new Error('these numbers are no pixels')
  return one
}

/** @param {number} value @returns {Length} */
const plain = (value) => ({ value, percent: false })

/**
 * @param {Length} one
 * @param {number} whole pixels of 100 percent
 */
export const inPixels = (one, whole) => (one.percent ? (one.value / 100) * whole : one.value)

/**
 * @param {Box} box
 * @param {Size} size
 * @returns {Corners}
 */
export function corners(box, { width, height }) {
  return [inPixels(box[0], width), inPixels(box[1], height), inPixels(box[2], width), inPixels(box[3], height)]
}

/**
 * Corners in pixels as a box in the units of another.
 * @param {Corners} pixels
 * @param {Size} size
 * @param {boolean} percent
 * @returns {Box}
 */
export function boxOf(pixels, { width, height }, percent) {
  const wholes = [width, height, width, height]
  const made = pixels.map((value, i) => lengthOf(value, wholes[i], percent))
  return /** @type {Box} */ (made)
}

/**
 * @param {number} pixels
 * @param {number} whole
 * @param {boolean} percent
 * @returns {Length}
 */
export function lengthOf(pixels, whole, percent) {
  return percent
    ? { value: rounded((pixels / whole) * 100, whole > 1000 ? 100 : 10), percent }
    : { value: rounded(pixels, whole < 64 ? 10 : 1), percent }
}

/**
 * @param {number} value
 * @param {number} parts of one
 */
const rounded = (value, parts) => Math.round(value * parts) / parts + 0

/** @param {Length} one */
const printed = (one) => `${decimal(one.value)}${one.percent ? '%' : ''}`

/** Without an exponent: the grammar has none. @param {number} value */
function decimal(value) {
  return (
    value
      .toFixed(6)
      .replace(/\.?0+$/, '')
      .replace(/^-0$/, '0') || '0'
  )
}

/** @param {Box} box @param {string} [between] */
export const printBox = (box, between = ' ') => box.map(printed).join(between)

/** @param {Prompt} prompt */
export function printPrompt({ points, box, mask }) {
  if (mask) return printMask(mask)
  const said = points.map(({ x, y, inside }) => `${inside ? '' : '-'}${printed(x)},${printed(y)}`)
  return [...said, ...(box ? [`[${printBox(box, ',')}]`] : [])].join(' ')
}

/**
 * @param {string} text
 * @returns {Box}
 * @throws {Error} where it is none
 */
export function parseBox(text) {
  const numbers = text.match(NUMBERS) ?? []
  if (numbers.length !== 4 || text.replace(NO_BOX, '')) {
    throw new Error(`a box is four numbers x0 y0 x1 y1 (left, top, right, bottom); got '${shorten(text, 80)}'`)
  }
  return /** @type {Box} */ (numbers.map(length).map(bounded))
}

/**
 * @param {string} text
 * @returns {Prompt}
 * @throws {Error} where it is none
 */
export function parsePrompt(text) {
  if (isMask(text)) return parseMaskAlone(text)
  const boxes = [...text.matchAll(BOXES)]
  if (boxes.length > 1) throw new Error(`at most one box a frame; got '${shorten(text, 80)}'`)
  const rest = text.replace(BOXES, boxes.length ? ' ' : '$&')
  const points = [...rest.matchAll(POINT)].map((match) => ({
    x: bounded(length(match[2])),
    y: bounded(length(match[3])),
    inside: match[1] !== '-' && match[1] !== '!'
  }))
  if (rest.replace(POINT, '').replace(/[ ,]/g, '') || !(points.length || boxes.length)) {
    throw new Error(
      `points are x,y (inside) or -x,y (outside), a box is [x0,y0,x1,y1]; got '${shorten(strip(text), 80)}'`
    )
  }
  return { points, box: boxes.length ? parseBox(boxes[0][1]) : null, mask: null }
}

/**
 * A painted mask as a prompt.
 * @param {string} text
 * @returns {Prompt}
 * @throws {Error} where it is none
 */
export const parseMaskAlone = (text) => ({ points: [], box: null, mask: parseMask(text) })

/**
 * @param {import('./json.js').Json} value
 * @returns {Box}
 * @throws {Error} where it is none
 */
export function boxOfJson(value) {
  return /** @type {Box} */ (numbersOfJson(value, 4).map(plain))
}

/**
 * @param {import('./json.js').Json} value
 * @returns {Prompt}
 * @throws {Error} where it is none
 */
export function promptOfJson(value) {
  if (value instanceof Map && value.has('mask')) return maskOfJson(value)
  if (!(value instanceof Map) || !value.size || ![...value.keys()].every((key) => KEYS.includes(key))) {
    throw new Error('a prompt has points, labels and box')
  }
  const points = listOf(value.get('points')).map((point) => numbersOfJson(point, 2))
  const given = listOf(value.get('labels'))
  const labels = given.length ? given : points.map(() => 1)
  if (labels.length !== points.length || !labels.every((label) => LABELS.includes(label))) {
    throw new Error(`there are ${points.length} points, so ${points.length} labels of 1 (inside) or 0`)
  }
  const box = value.get('box') ?? null
  if (!points.length && box === null) throw new Error('a prompt needs a point or a box')
  return {
    points: points.map(([x, y], i) => ({ x: plain(x), y: plain(y), inside: Number(labels[i]) === 1 })),
    box: box === null ? null : boxOfJson(box),
    mask: null
  }
}

/**
 * @param {import('./json.js').Json} value
 * @returns {Prompt}
 * @throws {Error} where it is no painted mask
 */
export function maskOfJson(value) {
  const text = value instanceof Map && value.size === 1 ? value.get('mask') : undefined
  if (typeof text !== 'string') throw new Error('a painted mask is {"mask": "WIDTHxHEIGHT CODE"}')
  return parseMaskAlone(`mask ${text}`)
}

const KEYS = ['points', 'labels', 'box']
/** @type {import('./json.js').Json[]} */
const LABELS = [0, 1, '0', '1']

/**
 * @param {import('./json.js').Json | undefined} value
 * @returns {import('./json.js').Json[]}
 */
function listOf(value) {
  if (value === undefined || value === null) return []
  if (!Array.isArray(value)) throw new Error('points and labels are lists')
  return value
}

/**
 * @param {import('./json.js').Json} value
 * @param {number} count
 * @returns {number[]}
 */
function numbersOfJson(value, count) {
  const fine = Array.isArray(value) && value.length === count
  if (!fine || !value.every((one) => typeof one === 'number')) throw new Error(`${count} numbers are needed here`)
  const numbers = /** @type {number[]} */ (value)
  if (!numbers.every((one) => Math.abs(one) <= LARGEST)) throw new Error('these numbers are no pixels')
  return numbers
}

/** @param {Box} box */
export const boxToJson = (box) => box.map((one) => one.value)

/** @param {Prompt} prompt */
export function promptToJson({ points, box, mask }) {
  if (mask) return { mask: printMask(mask).slice('mask '.length) }
  /** @type {Record<string, unknown>} */
  const made = {}
  if (points.length) {
    made.points = points.map(({ x, y }) => [x.value, y.value])
    made.labels = points.map(({ inside }) => (inside ? 1 : 0))
  }
  if (box) made.box = boxToJson(box)
  return made
}
