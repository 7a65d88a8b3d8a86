/**
 * Tracks out of what lies on the clipboard: this grammar, ComfyUI's own elements and boxes, KJNodes' points and splines.
 */
import { BOXES, instances, keysOf, MASKS, parse } from './grammar.js'
import { parseJson } from './json.js'
import { nameProblem, strip } from './text.js'
import { boxOf } from './values.js'

/** @typedef {import('./grammar.js').Value} Value */
/** @typedef {import('./values.js').Corners} Corners */
/** @typedef {{name: string, role: string | null, keys: {frame: number, value: Value}[]}} Found */
/** @typedef {import('./json.js').Json} Json */
/** A path of points, or boxes. @typedef {{name: string, boxes: Corners[] | null, points: [number, number][]}} Shape */

const SIDE = 0.2 // of the shorter side of the clip: the box around a bare point
const MOST_KEYS = 8
const STRAIGHT = 0.004 // of the clip's width: as near as a line between two keys keeps to a path
const MOST = 256
const MOST_SAMPLES = 400

/**
 * @param {string} text
 * @param {import('./grammar.js').Kind} kind
 * @param {import('./scene.js').Clip} clip
 * @param {{name: string}[]} bound names for things without one
 * @returns {Found[]}
 * @throws {Error} where nothing is found
 */
export function importTracks(text, kind, clip, bound) {
  const own = ownTracks(text, kind)
  if (own) return own
  if (kind === MASKS) throw new Error('nothing to paste: this takes lines with painted masks')
  const shapes = shapesIn(text, clip).slice(0, MOST)
  if (!shapes.length) {
    throw new Error(
      'nothing to paste: this takes lines as in the text, elements of Create Bounding Boxes, and points of splines'
    )
  }
  const names = bound.map(({ name }) => name)
  return shapes.map((shape, i) => {
    const name = shape.name && !nameProblem(shape.name) ? shape.name : (names[i] ?? `thing ${i + 1}`)
    return { name, role: null, keys: keysFor(shape, kind, clip) }
  })
}

/**
 * @param {string} text
 * @param {import('./grammar.js').Kind} kind
 * @returns {Found[] | null}
 */
function ownTracks(text, kind) {
  try {
    const found = instances(parse(text, kind)).filter((one) => keysOf(one).length)
    return found.length ? found.map((one) => ({ name: one.name, role: one.role, keys: keysOf(one) })) : null
  } catch {
    return null
  }
}

/**
 * @param {string} text
 * @param {import('./values.js').Size} clip
 * @returns {Shape[]}
 */
function shapesIn(text, clip) {
  /** @type {Json} */
  let found
  try {
    found = parseJson(strip(text))
  } catch {
    return []
  }
  const list = Array.isArray(found) ? found : [found]
  // A list of boxes for each frame, of which the first counts, or one list of them.
  const flat = list.length && list.every(Array.isArray) && !list.every(isPath) ? /** @type {Json[]} */ (list[0]) : list
  if (flat.length && flat.every(isPoint)) return [{ name: '', boxes: null, points: flat.map(point) }]
  return flat.flatMap((one) => shapeOf(one, clip) ?? [])
}

/**
 * @param {Json} one
 * @param {import('./values.js').Size} clip
 * @returns {Shape | null}
 */
function shapeOf(one, clip) {
  if (isPath(one)) return { name: '', boxes: null, points: /** @type {Json[]} */ (one).map(point) }
  if (!(one instanceof Map)) return null
  const name = [one.get('desc'), one.get('label'), one.get('name'), one.get('text')].find(
    (n) => typeof n === 'string' && n
  )
  const points = one.get('points')
  if (isPath(points ?? null))
    return { name: strip(String(name ?? '')), boxes: null, points: /** @type {Json[]} */ (points).map(point) }
  const box = boxIn(one, clip)
  return box && { name: strip(String(name ?? '')), boxes: [box], points: [] }
}

/**
 * A box of ComfyUI's own: x, y, width, height in pixels, shares x, y, w, h, or `bbox` in thousandths, top first.
 * @param {Map<string, Json>} one
 * @param {import('./values.js').Size} clip
 * @returns {Corners | null}
 */
function boxIn(one, { width, height }) {
  const bbox = one.get('bbox')
  if (Array.isArray(bbox) && bbox.length === 4 && bbox.every(isNumber)) {
    const [top, left, bottom, right] = /** @type {number[]} */ (bbox)
    return [(left / 1000) * width, (top / 1000) * height, (right / 1000) * width, (bottom / 1000) * height]
  }
  const [x, y, w, h] = [one.get('x'), one.get('y'), one.get('width') ?? one.get('w'), one.get('height') ?? one.get('h')]
  if (![x, y, w, h].every(isNumber)) return null
  const shares = one.has('w')
  const [left, top, across, down] = [x, y, w, h].map(Number)
  const [sx, sy] = shares ? [width, height] : [1, 1]
  return [left * sx, top * sy, (left + across) * sx, (top + down) * sy]
}

/** @param {Json | undefined} value */
const isNumber = (value) => typeof value === 'number' && Number.isFinite(value) && Math.abs(value) < 1e6

/** @param {Json} value */
const isPoint = (value) =>
  value instanceof Map && isNumber(value.get('x')) && isNumber(value.get('y')) && !value.has('width') && !value.has('w')

/** @param {Json} value */
const isPath = (value) => Array.isArray(value) && value.length > 0 && value.every(isPoint)

/** @param {Json} value @returns {[number, number]} */
function point(value) {
  const map = /** @type {Map<string, Json>} */ (value)
  return [Number(map.get('x')), Number(map.get('y'))]
}

/**
 * @param {Shape} shape
 * @param {import('./grammar.js').Kind} kind
 * @param {import('./scene.js').Clip} clip
 * @returns {Found['keys']}
 */
function keysFor({ boxes, points }, kind, clip) {
  if (boxes) return boxes.map((box, frame) => ({ frame, value: valueFor(box, kind, clip) }))
  if (kind !== BOXES) {
    const [x, y] = points[0]
    const dot = {
      x: { value: Math.round(x), percent: false },
      y: { value: Math.round(y), percent: false },
      inside: true
    }
    return [{ frame: 0, value: { points: [dot], box: null, mask: null } }]
  }
  const half = (Math.min(clip.width, clip.height) * SIDE) / 2
  return fewKeys(points, clip).map(({ frame, x, y }) => ({
    frame,
    value: boxOf([x - half, y - half, x + half, y + half], clip, false)
  }))
}

/**
 * @param {Corners} box
 * @param {import('./grammar.js').Kind} kind
 * @param {import('./scene.js').Clip} clip
 * @returns {Value}
 */
function valueFor(box, kind, clip) {
  const made = boxOf(box, clip, false)
  return kind === BOXES ? made : { points: [], box: made, mask: null }
}

/**
 * A path as few keys: its points spread over the clip, those left out that a straight line keeps to (Douglas and Peucker).
 * @param {[number, number][]} points
 * @param {import('./scene.js').Clip} clip
 */
function fewKeys(points, clip) {
  const spread = sampled(points, clip.frames)
  const kept = new Set([0, spread.length - 1])
  while (kept.size < MOST_KEYS) {
    const order = [...kept].sort((one, other) => one - other)
    let [worst, far] = [-1, clip.width * STRAIGHT]
    order.slice(1).forEach((end, i) => {
      for (let at = order[i] + 1; at < end; at++) {
        const off = offLine(spread[order[i]], spread[end], spread[at])
        if (off > far) [worst, far] = [at, off]
      }
    })
    if (worst < 0) break
    kept.add(worst)
  }
  return [...kept].sort((one, other) => one - other).map((at) => spread[at])
}

/** @typedef {{frame: number, x: number, y: number}} Place */

/**
 * A path at each frame of the clip (at most so many of them), its points in equal times.
 * @param {[number, number][]} points
 * @param {number} frames
 * @returns {Place[]}
 */
function sampled(points, frames) {
  const count = Math.min(frames, MOST_SAMPLES)
  return Array.from({ length: count }, (_, i) => {
    const share = count > 1 ? i / (count - 1) : 0
    const at = share * (points.length - 1)
    const [[x0, y0], [x1, y1]] = [points[Math.floor(at)], points[Math.ceil(at)]]
    const rest = at - Math.floor(at)
    return { frame: Math.round(share * (frames - 1)), x: x0 + (x1 - x0) * rest, y: y0 + (y1 - y0) * rest }
  })
}

/**
 * @param {Place} first
 * @param {Place} last
 * @param {Place} at
 */
function offLine(first, last, at) {
  const share = (at.frame - first.frame) / (last.frame - first.frame || 1)
  return Math.hypot(first.x + (last.x - first.x) * share - at.x, first.y + (last.y - first.y) * share - at.y)
}
