/** What lies under the pointer on the picture. Everything here is in CSS pixels of the stage. */
import { centre } from './motion.js'

/** @typedef {import('./values.js').Corners} Corners */
/** From pixels of the clip to those of the stage. @typedef {{scale: number, left: number, top: number}} View */
/**
 * What was hit: `part` is 'box', 'path' (a point of the path, at `frame`), 'dot' (number `index`), or sides of n, e, s, w.
 * @typedef {{name: string, part: string, frame?: number, index?: number}} Hit
 */

export const HANDLE = 9 // side of a handle
const REACH = 8 // from its middle
const COARSE = 16

/**
 * The whole clip in the middle of the stage, with room around it for boxes that reach out.
 * @param {import('./values.js').Size} size
 * @param {number} width
 * @param {number} height
 * @returns {View}
 */
export function viewOf(size, width, height) {
  const room = Math.min(14, width / 12, height / 12)
  const scale = Math.max(1e-6, Math.min((width - 2 * room) / size.width, (height - 2 * room) / size.height))
  return { scale, left: (width - size.width * scale) / 2, top: (height - size.height * scale) / 2 }
}

/**
 * @param {View} view
 * @param {Corners} box
 * @returns {Corners}
 */
export function onStage({ scale, left, top }, box) {
  return [left + box[0] * scale, top + box[1] * scale, left + box[2] * scale, top + box[3] * scale]
}

/**
 * @param {View} view
 * @param {{x: number, y: number}} spot
 * @returns {[number, number]} pixels of the clip
 */
export const inClip = ({ scale, left, top }, { x, y }) => [(x - left) / scale, (y - top) / scale]

/**
 * The eight handles of a box on the stage.
 * @param {Corners} box
 * @returns {[string, number, number][]} sides, x, y
 */
export function handles([x0, y0, x1, y1]) {
  const [x, y] = centre([x0, y0, x1, y1])
  /** @type {[string, number, number][]} */
  const corners = [
    ['nw', x0, y0],
    ['ne', x1, y0],
    ['se', x1, y1],
    ['sw', x0, y1]
  ]
  // Sides too short for a handle of their own between two corners have none.
  /** @type {[string, number, number][]} */
  const flat =
    x1 - x0 > 4 * HANDLE
      ? [
          ['n', x, y0],
          ['s', x, y1]
        ]
      : []
  /** @type {[string, number, number][]} */
  const steep =
    y1 - y0 > 4 * HANDLE
      ? [
          ['e', x1, y],
          ['w', x0, y]
        ]
      : []
  return [...corners, ...flat, ...steep]
}

/**
 * One instance as the stage shows it.
 * @typedef {{name: string, selected: boolean, box: Corners | null, dots: {x: number, y: number}[],
 *   path: {frame: number, x: number, y: number, key: boolean}[]}} Shown path: where its centre is
 */

/**
 * @param {Shown[]} shown in the order in which they are drawn
 * @param {{x: number, y: number, coarse?: boolean}} spot
 * @returns {Hit | null}
 */
export function hitAt(shown, { x, y, coarse }) {
  const reach = coarse ? COARSE : REACH
  const near = (/** @type {number} */ px, /** @type {number} */ py) =>
    Math.max(Math.abs(px - x), Math.abs(py - y)) <= reach
  const order = [...shown].sort(
    (one, other) => Number(other.selected) - Number(one.selected) || area(one) - area(other)
  )
  for (const { name, dots } of order) {
    const index = dots.findIndex((dot) => near(dot.x, dot.y))
    if (index >= 0) return { name, part: 'dot', index }
  }
  const chosen = order.find(({ selected }) => selected)
  if (chosen?.box) {
    const handle = handles(chosen.box).find(([, px, py]) => near(px, py))
    if (handle) return { name: chosen.name, part: handle[0] }
  }
  const inside = order.find(({ box }) => box && x >= box[0] && x <= box[2] && y >= box[1] && y <= box[3])
  const points = inside && inside === chosen ? apart(chosen) : (chosen?.path ?? [])
  const point = nearest(points, x, y)
  if (chosen && point && near(point.x, point.y)) return { name: chosen.name, part: 'path', frame: point.frame }
  return inside ? { name: inside.name, part: 'box' } : null
}

/**
 * In its own box a path gives way to the box, but for keys that are not where the box itself is.
 * @param {Shown} shown
 */
function apart({ box, path }) {
  const [x, y] = centre(/** @type {Corners} */ (box))
  return path.filter((point) => point.key && Math.hypot(point.x - x, point.y - y) > 2 * REACH)
}

/** @param {Shown} shown */
function area({ box }) {
  return box ? (box[2] - box[0]) * (box[3] - box[1]) : Number.POSITIVE_INFINITY
}

/**
 * @param {Shown['path']} path
 * @param {number} x
 * @param {number} y
 */
function nearest(path, x, y) {
  let [best, least] = [/** @type {Shown['path'][0] | null} */ (null), Number.POSITIVE_INFINITY]
  for (const point of path) {
    const far = Math.hypot(point.x - x, point.y - y)
    if (far < least) [best, least] = [point, far]
  }
  return best
}

/** @type {Record<string, string>} */
const CURSORS = { box: 'move', path: 'grab', dot: 'move', n: 'ns', s: 'ns', e: 'ew', w: 'ew' }

/** The cursor over what was hit. @param {Hit | null} hit */
export function cursorOf(hit) {
  if (!hit) return 'crosshair'
  const { part } = hit
  if (part.length === 2) return part === 'nw' || part === 'se' ? 'nwse-resize' : 'nesw-resize'
  return part.length === 1 ? `${CURSORS[part]}-resize` : CURSORS[part]
}
