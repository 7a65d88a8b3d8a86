/** Boxes over time: where an instance is between its keys, where it is absent, how fast it goes. Pixels and frames. */

/** @typedef {import('./values.js').Corners} Corners */
/** box: null where the instance leaves. @typedef {{frame: number, box: Corners | null}} BoxKey */

/**
 * The box in a frame: of its key, between two keys, or held at the ends (`core/tracks/boxes.py`).
 * @param {BoxKey[]} keys by frame
 * @param {number} frame
 * @param {boolean} hold
 * @returns {Corners | null}
 */
export function boxAt(keys, frame, hold) {
  const at = keys.findLastIndex((key) => key.frame <= frame)
  const [before, after] = [keys[at], keys[at + 1]]
  if (before?.frame === frame) return before.box
  if (!before || !after) return hold ? ((before ?? after)?.box ?? null) : null
  if (!before.box || !after.box) return before.box
  const share = (frame - before.frame) / (after.frame - before.frame)
  const { box } = after
  const between = before.box.map((value, i) => value + (box[i] - value) * share)
  return /** @type {Corners} */ (between)
}

/**
 * Where it is to be seen: [first, last] frames, both included.
 * @param {BoxKey[]} keys
 * @param {number} frames
 * @param {boolean} hold
 * @returns {[number, number][]}
 */
export function present(keys, frames, hold) {
  /** @type {[number, number][]} */
  const found = []
  const stops = [...new Set([0, ...keys.flatMap(({ frame }) => [frame, frame + 1]), frames])].sort((a, b) => a - b)
  stops.forEach((start, i) => {
    const end = Math.min(stops[i + 1] ?? frames, frames) - 1
    if (end < start || !boxAt(keys, start, hold)) return
    const last = found.at(-1)
    if (last && last[1] === start - 1) last[1] = end
    else found.push([start, end])
  })
  return found
}

/** @param {Corners} box @returns {[number, number]} */
export const centre = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]

/**
 * Pixels that the centre goes from this frame to the next; null where it is absent in one of them.
 * @param {BoxKey[]} keys
 * @param {number} frame
 * @param {boolean} hold
 */
export function speedAt(keys, frame, hold) {
  const [now, next] = [boxAt(keys, frame, hold), boxAt(keys, frame + 1, hold)]
  if (!now || !next) return null
  const [[x0, y0], [x1, y1]] = [centre(now), centre(next)]
  return Math.hypot(x1 - x0, y1 - y0)
}

/**
 * The keys before and behind a frame that show a box.
 * @param {BoxKey[]} keys
 * @param {number} frame
 */
export function neighbours(keys, frame) {
  const shown = keys.filter(({ box }) => box)
  return [shown.findLast((key) => key.frame < frame), shown.find((key) => key.frame > frame)].filter((key) => !!key)
}

/**
 * A box that was moved by so much.
 * @param {Corners} box
 * @param {number} dx
 * @param {number} dy
 * @returns {Corners}
 */
export const moved = ([x0, y0, x1, y1], dx, dy) => [x0 + dx, y0 + dy, x1 + dx, y1 + dy]

/**
 * A box with some of its sides elsewhere, put right where it was turned inside out.
 * @param {Corners} box
 * @param {string} sides of n, e, s, w
 * @param {number} x
 * @param {number} y
 * @returns {Corners}
 */
export function resized([x0, y0, x1, y1], sides, x, y) {
  if (sides.includes('w')) x0 = x
  if (sides.includes('e')) x1 = x
  if (sides.includes('n')) y0 = y
  if (sides.includes('s')) y1 = y
  return normal([x0, y0, x1, y1])
}

/** @param {Corners} box @returns {Corners} left before right, top before bottom */
export const normal = ([x0, y0, x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)]

/**
 * The nearest box that the library takes: in whole pixels where they are large enough, and some of it in the frame.
 * @param {Corners} box
 * @param {import('./values.js').Size} size
 * @returns {Corners}
 */
export function allowed(box, { width, height }) {
  const [x0, x1] = side(box[0], box[2], width)
  const [y0, y1] = side(box[1], box[3], height)
  return [x0, y0, x1, y1]
}

/**
 * @param {number} low
 * @param {number} high
 * @param {number} whole
 * @returns {[number, number]}
 */
function side(low, high, whole) {
  const least = Math.min(2, whole)
  const length = Math.max(least, Math.min(high - low, 3 * whole))
  const start = Math.min(Math.max(low, least - length), whole - least)
  return [start, start + length]
}

/**
 * What is wrong with the keys of an instance, for people; empty where nothing is.
 * @param {BoxKey[]} keys
 * @param {number} frames
 * @param {import('./values.js').Size} size
 */
export function problemOf(keys, frames, { width, height }) {
  if (!keys.some(({ box }) => box)) return 'has no box'
  const late = keys.find(({ frame }) => frame >= frames)
  if (late) return `has a key at frame ${late.frame}; the clip has 0 to ${frames - 1}`
  for (const { frame, box } of keys) {
    if (!box) continue
    if (box[2] <= box[0] || box[3] <= box[1]) return `its box at frame ${frame} is empty`
    if (box[0] >= width || box[1] >= height || box[2] <= 0 || box[3] <= 0) return `lies outside at frame ${frame}`
  }
  return ''
}
