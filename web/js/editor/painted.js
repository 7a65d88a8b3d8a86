/**
 * Painted masks: one frame's pixels as the letters of a code, and strokes of a brush. `matrix_lib/core/tracks/painted.py`
 * reads the same text and says what the code is.
 */
import { BLANK } from './text.js'

/** A mask as its text holds it, in pixels of the picture that it was painted on. @typedef {{width: number, height: number, code: string}} Mask */
/** Its pixels row by row, 1 inside. @typedef {{width: number, height: number, pixels: Uint8Array<ArrayBuffer>}} Bitmap */

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const VALUES = new Map([...ALPHABET].map((letter, value) => [letter, value]))
const TEXT = new RegExp(`^mask[${BLANK}]+([0-9]{1,5})x([0-9]{1,5})[${BLANK}]+([A-Za-z0-9_-]+)$`)
const LONGEST_SIDE = 16384
const MOST_PIXELS = 2 ** 26
const MOST_GROUPS = 6

/** Whether a value is meant to be a painted mask. @param {string} text */
export const isMask = (text) => text.startsWith('mask')

/**
 * @param {string} text
 * @returns {Mask}
 * @throws {Error} where it is none
 */
export function parseMask(text) {
  const match = TEXT.exec(text)
  if (!match) throw new Error('a painted mask is  mask WIDTHxHEIGHT CODE  as the editor writes it')
  const [width, height] = [Number(match[1]), Number(match[2])]
  const sides = width > 0 && width <= LONGEST_SIDE && height > 0 && height <= LONGEST_SIDE
  if (!sides || width * height > MOST_PIXELS) {
    throw new Error(`a painted mask has at most ${MOST_PIXELS} pixels; got ${width}x${height}`)
  }
  const lengths = lengthsOf(match[3])
  const whole = lengths.reduce((sum, length) => sum + length, 0) === width * height
  if (!whole || lengths.length < 2 || lengths.some((length, i) => length < Number(i > 0))) {
    throw new Error(`the code of this painted mask is not of ${width}x${height} pixels: it was changed or cut off`)
  }
  return { width, height, code: match[3] }
}

/** @param {Mask} mask */
export const printMask = ({ width, height, code }) => `mask ${width}x${height} ${code}`

/**
 * Lengths of runs, outside and inside in turn.
 * @param {string} code
 * @returns {number[]}
 * @throws {Error} where it breaks off
 */
function lengthsOf(code) {
  /** @type {number[]} */
  const found = []
  let [value, groups] = [0, 0]
  for (const letter of code) {
    const group = VALUES.get(letter) ?? 0
    value |= (group & 31) << (5 * groups)
    groups += 1
    if (group & 32) {
      if (groups === MOST_GROUPS) throw new Error('the code of this painted mask holds a number that is too large')
      continue
    }
    if (group & 16) value -= 2 ** (5 * groups)
    found.push(value + (found.length > 2 ? found[found.length - 2] : 0))
    value = 0
    groups = 0
  }
  if (groups) throw new Error('the code of this painted mask breaks off')
  return found
}

/**
 * @param {Mask} mask
 * @returns {Bitmap}
 */
export function bitmapOf({ width, height, code }) {
  const pixels = new Uint8Array(width * height)
  let at = 0
  lengthsOf(code).forEach((length, i) => {
    if (i % 2) pixels.fill(1, at, at + length)
    at += length
  })
  return { width, height, pixels }
}

/**
 * @param {Bitmap} bitmap
 * @returns {Mask | null} null where nothing is inside
 */
export function maskOf({ width, height, pixels }) {
  /** @type {number[]} */
  const lengths = []
  let [start, inside] = [0, 0]
  while (start < pixels.length) {
    const end = pixels.indexOf(1 - inside, start)
    const stop = end < 0 ? pixels.length : end
    lengths.push(stop - start)
    start = stop
    inside = 1 - inside
  }
  if (lengths.length < 2) return null
  const code = lengths.map((length, i) => letters(length - (i > 2 ? lengths[i - 2] : 0))).join('')
  return { width, height, code }
}

/** @param {number} value */
function letters(value) {
  let found = ''
  for (;;) {
    const group = value & 31
    value >>= 5
    const more = value !== (group & 16 ? -1 : 0)
    found += ALPHABET[group | (more ? 32 : 0)]
    if (!more) return found
  }
}

/**
 * A bitmap in another size, by the nearest pixel.
 * @param {Bitmap} bitmap
 * @param {import('./values.js').Size} size
 * @returns {Bitmap} a copy
 */
export function resizedBitmap({ width, height, pixels }, size) {
  const made = new Uint8Array(size.width * size.height)
  for (let y = 0; y < size.height; y++) {
    const row = Math.floor(((2 * y + 1) * height) / (2 * size.height)) * width
    for (let x = 0; x < size.width; x++) {
      made[y * size.width + x] = pixels[row + Math.floor(((2 * x + 1) * width) / (2 * size.width))]
    }
  }
  return { ...size, pixels: made }
}

/**
 * Draws a stroke of a round brush into a bitmap.
 * @param {Bitmap} bitmap is changed
 * @param {[number, number]} from in pixels
 * @param {[number, number]} to
 * @param {number} radius
 * @param {number} value 1 paints, 0 takes away
 */
export function stroke({ width, height, pixels }, [x0, y0], [x1, y1], radius, value) {
  const [dx, dy] = [x1 - x0, y1 - y0]
  const far = dx * dx + dy * dy
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius))
  const bottom = Math.min(height - 1, Math.ceil(Math.max(y0, y1) + radius))
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius))
  const right = Math.min(width - 1, Math.ceil(Math.max(x0, x1) + radius))
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const [px, py] = [x + 0.5 - x0, y + 0.5 - y0]
      const share = far ? Math.max(0, Math.min(1, (px * dx + py * dy) / far)) : 0
      const [ox, oy] = [px - share * dx, py - share * dy]
      if (ox * ox + oy * oy <= radius * radius) pixels[y * width + x] = value
    }
  }
}

/**
 * The box around what is inside.
 * @param {Bitmap} bitmap
 * @returns {import('./values.js').Corners}
 */
export function boundsOf({ width, height, pixels }) {
  let [x0, y0, x1, y1] = [width, height, 0, 0]
  for (let at = pixels.indexOf(1); at >= 0; at = pixels.indexOf(1, at + 1)) {
    const [x, y] = [at % width, Math.floor(at / width)]
    x0 = Math.min(x0, x)
    x1 = Math.max(x1, x + 1)
    y0 = Math.min(y0, y)
    y1 = y + 1
  }
  return [x0, y0, x1, y1]
}
