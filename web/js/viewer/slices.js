/**
 * Slices: maps of one word or instance as they travel, one byte a token. A value is peak * (code / 255)^2.
 *
 * F, h, w are token frames, rows and columns.
 */

const LEVELS = 255
const LOW = 0.02 // the colour scale leaves out the most extreme values: one hot token would turn the rest black
const HIGH = 0.997

/** @typedef {[number, number, number]} Shape token frames, rows, columns */

/**
 * One map. `seen` says of each token frame whether it was recorded; `codes` lie as [F, h, w].
 * @typedef {{peak: number, seen: Uint8Array, codes: Uint8Array, shape: Shape}} Slice
 */

/**
 * The bytes that a slice takes.
 * @param {Shape} shape
 * @returns {number}
 */
export function sliceBytes([frames, rows, columns]) {
  return 4 + frames + frames * rows * columns
}

/**
 * `count` slices that lie one behind the other.
 * @param {ArrayBuffer} data
 * @param {number} count
 * @param {Shape} shape
 * @returns {Slice[]}
 */
export function slicesOf(data, count, shape) {
  const size = sliceBytes(shape)
  if (data.byteLength !== size * count) {
    throw new Error(`${count} maps of ${shape.join(' x ')} tokens take ${size * count} bytes; got ${data.byteLength}`)
  }
  return Array.from({ length: count }, (_, i) => {
    const begin = i * size
    const peak = new DataView(data).getFloat32(begin, true)
    const seen = new Uint8Array(data, begin + 4, shape[0])
    return { peak, seen, codes: new Uint8Array(data, begin + 4 + shape[0], size - 4 - shape[0]), shape }
  })
}

/**
 * The values of one token frame.
 * @param {Slice} slice
 * @param {number} frame
 * @returns {Float32Array} of length h * w
 */
export function frameValues(slice, frame) {
  const size = slice.shape[1] * slice.shape[2]
  const table = valueTable(slice.peak)
  return Float32Array.from(slice.codes.subarray(frame * size, (frame + 1) * size), (code) => table[code])
}

/**
 * The value at one token, or null where nothing was recorded.
 * @param {Slice} slice
 * @param {number} frame
 * @param {number} token row * w + column
 * @returns {number | null}
 */
export function valueAt(slice, frame, token) {
  if (!slice.seen[frame]) return null
  return slice.peak * (slice.codes[frame * slice.shape[1] * slice.shape[2] + token] / LEVELS) ** 2
}

/**
 * The mean over all tokens that were recorded.
 * @param {Slice} slice
 * @returns {number}
 */
export function meanOf(slice) {
  const counts = histogram(slice, null)
  const table = valueTable(slice.peak)
  let sum = 0
  let total = 0
  for (const [code, count] of counts.entries()) {
    sum += table[code] * count
    total += count
  }
  return total ? sum / total : 0
}

/**
 * The ends of the colour scale: of the whole clip, or of one token frame.
 * @param {Slice} slice
 * @param {number | null} frame null for the clip
 * @returns {[number, number]}
 */
export function scaleOf(slice, frame) {
  const counts = histogram(slice, frame)
  const table = valueTable(slice.peak)
  return [percentile(counts, table, LOW), percentile(counts, table, HIGH)]
}

/**
 * Values from 0 to 1 by a colour scale; a flat map is 0.
 * @param {Float32Array} values
 * @param {[number, number]} scale
 * @returns {Float32Array}
 */
export function unit(values, [low, high]) {
  const factor = high > low ? 1 / (high - low) : 0
  return values.map((value) => Math.min(1, Math.max(0, (value - low) * factor)))
}

/**
 * What one map has more than another, token by token; `seen` where both were recorded.
 * @param {Slice} one
 * @param {Slice} other
 * @param {number} frame
 * @returns {Float32Array | null} null where the frame is missing in one
 */
export function difference(one, other, frame) {
  if (!one.seen[frame] || !other.seen[frame]) return null
  const second = frameValues(other, frame)
  return frameValues(one, frame).map((value, i) => value - second[i])
}

/**
 * The end of a scale of differences around 0: all but the most extreme ones of the clip, or of one frame.
 * @param {Slice} one
 * @param {Slice} other
 * @param {number | null} frame
 * @returns {number}
 */
export function differenceScale(one, other, frame) {
  const frames = frame === null ? [...one.seen.keys()] : [frame]
  const parts = frames.map((each) => difference(one, other, each)).filter((part) => part !== null)
  const sizes = Float32Array.from(parts.flatMap((part) => [...part].map(Math.abs))).sort()
  return sizes.length ? sizes[Math.floor((sizes.length - 1) * HIGH)] : 0
}

/**
 * How many tokens have each code.
 * @param {Slice} slice
 * @param {number | null} frame
 * @returns {Uint32Array} of length 256
 */
function histogram(slice, frame) {
  const counts = new Uint32Array(LEVELS + 1)
  const size = slice.shape[1] * slice.shape[2]
  for (const [at, seen] of slice.seen.entries()) {
    if (!seen || (frame !== null && at !== frame)) continue
    for (let i = at * size; i < (at + 1) * size; i++) counts[slice.codes[i]]++
  }
  return counts
}

/**
 * The value below which a share of all lies, in between two of them where it falls there.
 * @param {Uint32Array} counts
 * @param {Float32Array} table
 * @param {number} share
 * @returns {number} 0 where there are none
 */
function percentile(counts, table, share) {
  const total = counts.reduce((sum, count) => sum + count, 0)
  if (!total) return 0
  const place = share * (total - 1)
  const [first, second] = [ranked(counts, Math.floor(place)), ranked(counts, Math.ceil(place))]
  const low = table[first]
  return low + (table[second] - low) * (place - Math.floor(place))
}

/**
 * The code of the token that would be at `place` if all stood in order.
 * @param {Uint32Array} counts
 * @param {number} place
 * @returns {number}
 */
function ranked(counts, place) {
  let below = 0
  for (const [code, count] of counts.entries()) {
    below += count
    if (place < below) return code
  }
  return LEVELS
}

/** @param {number} peak */
function valueTable(peak) {
  return Float32Array.from({ length: LEVELS + 1 }, (_, code) => peak * (code / LEVELS) ** 2)
}
